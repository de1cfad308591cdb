"""Rows 1, 5, 6, 19 and 24 for the intake of events: real worker processes that die or freeze."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event
from typing import Any

import pytest
import redis

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from tests.applications import application
from tests.conftest import NewServer
from tests.faults.proxy import Proxy
from tests.faults.signals import frozen, kill
from tests.processes import CommandLine, Launcher
from tests.servers import ServerKind
from tests.waiting import eventually, wait_for

QUEUE = "mentions"
STREAM = "chatgenius:messages"
LEASE_MS = 1_500
#: The lease, a third of it until somebody looks, and a second.
TAKEN_OVER_S = 3.0
BODY = """
from middleware.events import on_event
from middleware.intake import EventIntake

broker.add_middleware(EventIntake())


@on_event("chatgenius:messages")
@dramatiq.actor(queue_name="mentions")
def notify(fields):
    pass
"""

Start = Callable[..., CommandLine]


@pytest.fixture
def server_kind() -> ServerKind:
    """What the servers differ in has a test of its own."""
    return "valkey"


@pytest.fixture
def hurt(own_server: NewServer) -> EmbeddedValkey:
    """A server that comes back with all it has acknowledged."""
    return own_server(appendonly=True)


@pytest.fixture
def broker(hurt: EmbeddedValkey, namespace: str) -> Iterator[StreamsBroker]:
    made = StreamsBroker(url=hurt.url, namespace=namespace)
    yield made
    made.close()


@pytest.fixture
def start(launch: Launcher, hurt: EmbeddedValkey, namespace: str) -> Start:
    """Start a worker process that takes events and runs none of their messages."""

    def begin(url: str | None = None) -> CommandLine:
        source = application(
            "streams",
            hurt.url if url is None else url,
            namespace,
            BODY,
            notebook=hurt.url,
            heartbeat_timeout=LEASE_MS,
        )
        return launch(source, "--queues", "another", threads=1)

    return begin


def post(broker: StreamsBroker, count: int) -> list[str]:
    client: Any = broker.client
    with client.pipeline(transaction=False) as pipe:
        for number in range(count):
            pipe.xadd(STREAM, {"number": number})
        return [event_id.decode() for event_id in pipe.execute()]


def taken(broker: StreamsBroker) -> list[str]:
    """The event of each message in the queue."""
    client: Any = broker.client
    rows = client.xrange(broker.commands.keys(QUEUE).ready[0])
    return [json.loads(fields[b"options"])["event_id"] for _, fields in rows]


def wait_until_dealt_with(broker: StreamsBroker, timeout_s: float = 20.0) -> None:
    eventually(
        broker.inspector.intake.sources,
        lambda found: [(each.lag, each.pending) for each in found] == [(0, 0)],
        timeout_s=timeout_s,
        what="every acknowledgement",
    )


def wait_for_some(broker: StreamsBroker, count: int) -> None:
    length = broker.client.xlen
    ready = broker.commands.keys(QUEUE).ready[0]
    eventually(lambda: length(ready), lambda found: found >= count, what=f"{count} messages")


@pytest.mark.faults
def test_01_killed_intake_loses_no_event_and_doubles_none(
    broker: StreamsBroker, start: Start
) -> None:
    workers = [start() for _ in range(2)]
    pids = [worker.wait_until_ready()[0] for worker in workers]
    posted = post(broker, 6_000)
    wait_for_some(broker, 500)
    kill(pids[0])
    posted += post(broker, 2_000)
    wait_until_dealt_with(broker)
    assert sorted(taken(broker)) == sorted(posted)


@pytest.mark.faults
def test_06_frozen_intake_is_fenced_off_when_it_wakes_up(
    broker: StreamsBroker, start: Start
) -> None:
    workers = [start() for _ in range(2)]
    (pid,), _ = (worker.wait_until_ready() for worker in workers)
    posted = post(broker, 4_000)
    wait_for_some(broker, 500)
    with frozen(pid):
        posted += post(broker, 2_000)
        wait_until_dealt_with(broker)
    posted += post(broker, 100)
    wait_until_dealt_with(broker)
    assert sorted(taken(broker)) == sorted(posted)


@pytest.mark.faults
def test_19_events_of_a_reply_that_was_cut_are_read_again(
    broker: StreamsBroker, start: Start, hurt: EmbeddedValkey
) -> None:
    proxy = Proxy(hurt.port)
    try:
        cut = proxy.cut(b"XREADGROUP", reply=b"number", share=0.5)
        start(proxy.url).wait_until_ready()
        posted = post(broker, 100)
        wait_for(cut.happened, "the cut")
        wait_until_dealt_with(broker, TAKEN_OVER_S)
        assert sorted(taken(broker)) == sorted(posted)
    finally:
        proxy.close()


@pytest.mark.faults
def test_24_a_killed_server_loses_no_event_that_it_has_acknowledged(
    broker: StreamsBroker, start: Start, hurt: EmbeddedValkey
) -> None:
    start().wait_until_ready()
    posted: list[str] = []
    stop = Event()

    def keep_posting() -> None:
        with redis.Redis.from_url(hurt.url, protocol=2, retry=None) as client:
            while not stop.is_set():
                with suppress(redis.RedisError):
                    posted.append(client.xadd(STREAM, {"number": 1}).decode())

    with ThreadPoolExecutor(1) as pool:
        pool.submit(keep_posting)
        wait_for_some(broker, 500)
        hurt.kill()
        hurt.start()
        before = len(taken(broker))
        wait_for_some(broker, before + 500)
        stop.set()
    wait_until_dealt_with(broker)
    found = taken(broker)
    assert set(posted) <= set(found)
    assert len(found) == len(set(found))
