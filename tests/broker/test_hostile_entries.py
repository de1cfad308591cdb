"""Entries that anybody may have written: each ends by itself, and hinders nothing beside it."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Broker, Message
from dramatiq.middleware import Middleware, MiddlewareError

from broker import StreamsBroker
from broker.delivery import SUSPECT_FROM, Delivery
from broker.embedded import EmbeddedValkey
from broker.endings import Endings
from broker.keys import GROUP
from tests.conftest import NewBroker, StartWorker
from tests.contract.recording import Seen
from tests.waiting import PATIENCE_S, eventually, wait_for

TIMEOUT_MS = int(PATIENCE_S * 1000)
LEASE_MS = 600

#: As Dramatiq's own encoder writes it.
MESSAGE: dict[str, Any] = {
    "queue_name": "work",
    "actor_name": "record",
    "args": [1],
    "kwargs": {},
    "options": {},
    "message_id": "inside",
    "message_timestamp": 1,
}


@pytest.fixture
def streams(server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    made = new_broker("streams", server.url, heartbeat_timeout=LEASE_MS)
    assert isinstance(made, StreamsBroker)
    return made


@pytest.fixture
def seen(streams: StreamsBroker) -> Seen:
    recorded = Seen()
    dramatiq.actor(queue_name="work", broker=streams, actor_name="record")(recorded.add)
    return recorded


@pytest.fixture
def ready(namespace: str) -> str:
    return f"{{{namespace}:work}}:ready:0"


def foreign(value: int, **options: object) -> dict[Any, Any]:
    """An entry as a producer in another language writes it."""
    fields = {"id": f"f{value}", "actor": "record", "at": 1}
    return {**fields, "args": json.dumps([value]), "options": json.dumps(options)}


def add_suspect(client: Any, ready: str, fields: dict[str, Any]) -> None:
    """An entry whose last delivery but one from being a suspect has ended unsettled."""
    entry_id = client.xadd(ready, fields)
    client.xgroup_create(ready, GROUP, "0")
    client.xreadgroup(GROUP, "gone", {ready: ">"})
    client.xclaim(ready, GROUP, "~released", 0, [entry_id], retrycount=SUSPECT_FROM - 1)
    client.xgroup_delconsumer(ready, GROUP, "gone")


def reasons(streams: StreamsBroker, count: int) -> list[str]:
    letters = eventually(
        lambda: streams.inspector.dead("work"), lambda found: len(found) == count, what="burials"
    )
    return [letter.reason for letter in letters]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("actor_name", ["record"]), ("actor_name", "\ud800"), ("args", "x"), ("args", None)),
        *(("kwargs", 5), ("options", None), ("options", [1]), ("message_id", ["q"])),
        *(("message_timestamp", {"a": 1}), ("\ud800", "no field of a message")),
    ],
    ids=ascii,
)
def test_a_message_with_a_field_of_another_type_is_buried_and_those_beside_it_run(
    streams: StreamsBroker,
    seen: Seen,
    start_worker: StartWorker,
    client: redis.Redis,
    ready: str,
    name: str,
    value: object,
) -> None:
    client.xadd(ready, {"id": "1", "message": json.dumps({**MESSAGE, name: value})})
    client.xadd(ready, {"id": "2", "message": json.dumps(MESSAGE)})
    worker = start_worker(streams)
    assert seen.next() == 1
    assert reasons(streams, 1) == ["undecodable"]
    streams.join("work", timeout=TIMEOUT_MS)
    worker.stop()
    assert streams.inspector.queue("work").in_flight == 0


@pytest.mark.parametrize("since", ["x", None, 2**70, [1]], ids=repr)
def test_the_time_of_an_unknown_actor_that_is_none_delays_its_burial_for_no_longer(
    server: EmbeddedValkey,
    new_broker: NewBroker,
    start_worker: StartWorker,
    client: redis.Redis,
    ready: str,
    since: object,
) -> None:
    streams = new_broker("streams", server.url, unknown_actor_grace=300)
    assert isinstance(streams, StreamsBroker)
    streams.declare_queue("work")
    client.xadd(ready, foreign(1, unknown_since=since) | {"actor": "nobody"})
    start_worker(streams)
    assert reasons(streams, 1) == ["unknown_actor"]


def test_a_suspect_whose_end_fails_keeps_no_other_suspect_waiting(
    streams: StreamsBroker,
    seen: Seen,
    start_worker: StartWorker,
    client: redis.Redis,
    ready: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, failures = Endings.outcome, iter([1])

    def fails_once(endings: Endings, delivery: Delivery, *, failed: bool) -> Any:
        if next(failures, None):
            raise RuntimeError("a defect")
        return real(endings, delivery, failed=failed)

    monkeypatch.setattr(Endings, "outcome", fails_once)
    add_suspect(client, ready, foreign(1))
    start_worker(streams)
    assert seen.take(2) == [1, 1], "its lease is not renewed, and then the place for it is free"
    streams.join("work", timeout=TIMEOUT_MS)


def test_a_suspect_that_can_not_be_put_off_is_buried(
    streams: StreamsBroker,
    seen: Seen,
    start_worker: StartWorker,
    client: redis.Redis,
    ready: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def too_deep(*args: Any, **kwargs: Any) -> Any:
        raise RecursionError("maximum recursion depth exceeded")

    monkeypatch.setattr(streams.codec, "encode", too_deep)
    add_suspect(client, ready, foreign(1, eta=4_000_000_000_000))
    client.xadd(ready, foreign(2))
    start_worker(streams)
    assert seen.next() == 2
    assert reasons(streams, 1) == ["undecodable"]
    assert streams.worker.suspects.reserve(), "nothing holds the place of a suspect"


class FailsOnce(Middleware):
    """Raises what no worker swallows when it is shown what a consumer has taken."""

    failed = False

    def before_take(self, broker: Broker, deliveries: list[Delivery]) -> None:
        if deliveries and not self.failed:
            self.failed = True
            raise MiddlewareError("not now")


def test_what_a_consumer_has_taken_and_can_not_hold_goes_back_at_once(
    server: EmbeddedValkey,
    new_broker: NewBroker,
    start_worker: StartWorker,
    client: redis.Redis,
    ready: str,
) -> None:
    streams, seen = new_broker("streams", server.url), Seen()  # its lease is longer than we wait
    assert isinstance(streams, StreamsBroker)
    streams.add_middleware(FailsOnce())
    dramatiq.actor(queue_name="work", broker=streams, actor_name="record")(seen.add)
    add_suspect(client, ready, foreign(1))
    client.xadd(ready, foreign(2))
    start_worker(streams)
    assert sorted(seen.take(2)) == [1, 2]
    streams.join("work", timeout=TIMEOUT_MS)


def test_a_worker_that_stops_hands_back_the_others_when_one_can_not_be_described(
    streams: StreamsBroker, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, go_on = threading.Event(), threading.Event()

    @dramatiq.actor(queue_name="work", broker=streams)
    def job(number: int) -> None:
        started.set()
        wait_for(go_on, "permission")

    def facts(delivery: Delivery, error: str) -> list[str]:
        raise RecursionError("maximum recursion depth exceeded")

    messages: list[Message[Any]] = [job.message(number) for number in range(3)]
    streams.enqueue_many(messages)
    worker = start_worker(streams, threads=1)
    wait_for(started, "the first job")
    held = streams.worker.in_flight("work")
    eventually(held.held, lambda count: count >= 2, what="another job is held")
    monkeypatch.setattr("broker.endings.facts_of", facts)
    worker.stop(timeout=200)
    eventually(
        lambda: streams.inspector.queue("work"),
        lambda info: (info.ready, info.in_flight) == (3, 0),
        what="all are back",
    )
    go_on.set()


@pytest.mark.parametrize("hours", [-1, 1])
def test_another_languages_eta_is_by_the_servers_clock(
    streams: StreamsBroker,
    seen: Seen,
    start_worker: StartWorker,
    client: Any,
    ready: str,
    hours: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker's is wrong by an hour: what is due in half an hour waits, what was runs."""
    monkeypatch.setattr("dramatiq.common.time", lambda: time.time() + hours * 3600)
    now_ms = client.time()[0] * 1000
    for value, eta in ((1, now_ms + 1_800_000), (2, now_ms - 1_800_000)):
        client.xadd(ready, foreign(value, eta=eta))
    start_worker(streams)
    assert seen.next() == 2
    info = eventually(lambda: streams.inspector.queue("work"), lambda found: found.in_flight == 0)
    assert (info.ready, info.scheduled) == (0, 1)
    (due,) = client.zrange(streams.commands.keys("work").scheduled, 0, -1, withscores=True)
    assert due[1] == pytest.approx(now_ms + 1_800_000, abs=10_000)
    assert seen.nothing_more()
