"""Rows 18, 19, 20, 22 and 31 to 33: connections that are cut, slow, killed and refused."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from broker.scripts import names, script
from tests.applications import Effects
from tests.conftest import NewBroker
from tests.faults.conftest import LEASE_MS, SWEEP_MS, Source, valkey_only
from tests.faults.history import History
from tests.faults.proxy import Proxy
from tests.processes import Launcher
from tests.waiting import eventually, wait_for

#: A reset costs the lease, the sweep, and the consumer's pause before it connects again.
STRANDED_S = (LEASE_MS + SWEEP_MS) / 1000 + 1

JOBS = """
@dramatiq.actor(queue_name="work")
def short(label):
    note("started", label)
    note("done", label)


@dramatiq.actor(queue_name="work", max_retries=1, min_backoff=100, max_backoff=100)
def twice(label):
    note("started", label)
    if not CurrentMessage.get_current_message().options.get("retries"):
        raise RuntimeError("the first attempt always fails")
    note("done", label)


@dramatiq.actor(queue_name="work", max_retries=0)
def fail(label):
    note("started", label)
    raise RuntimeError("on purpose")
"""

LOUD = re.compile(r"^.*\[(?:WARNING|ERROR|CRITICAL)\].*$", re.MULTILINE)


@pytest.fixture
def loaded(producer: StreamsBroker) -> None:
    """The server knows the scripts, so that a script's digest in a request is its execution."""
    for name in names():
        producer.client.script_load(script(name).source)


def digest(name: str) -> bytes:
    """What a request that runs this script contains."""
    return script(name).sha.encode()


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("way", ["now", "later", "many"])
def test_18_an_enqueue_that_was_executed_and_not_answered_makes_one_entry(
    launch: Launcher,
    source: Source,
    history: History,
    proxy: Proxy,
    new_broker: NewBroker,
    way: str,
) -> None:
    distant = new_broker("streams", proxy.url)
    assert isinstance(distant, StreamsBroker)
    history.broker = distant
    cut = proxy.cut(digest("schedule" if way == "later" else "enqueue"))
    history.injure()
    if way == "many":
        sent = history.send_many("short", range(100))
    else:
        sent = [history.send("short", "job", delay=300 if way == "later" else None)]
    history.recovered()
    assert cut.happened.is_set()
    assert history.places().all == dict.fromkeys(sent, 1)
    launch(source(JOBS), threads=2)
    history.settle_down()
    history.check(failures=0)
    assert history.finished() == set(sent)


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("way", ["blocked read", "script"])
def test_19_what_a_cut_fetch_had_taken_is_reclaimed(
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    proxy: Proxy,
    way: str,
) -> None:
    request = b"XREADGROUP" if way == "blocked read" else digest("fetch")
    cut = proxy.cut(request, reply=b"stranded", share=0.5)
    if way == "script":
        history.send("short", "stranded")
    worker = launch(source(JOBS, url=proxy.url), threads=1)
    worker.wait_until_ready()
    if way == "blocked read":
        history.wait_until_blocked()
        history.send("short", "stranded")
    wait_for(cut.happened, "the cut")
    history.injure()
    effects.next("done")
    assert history.recovered() <= STRANDED_S
    history.settle_down()
    history.check(failures=0)


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("actor", ["short", "twice", "fail"])
def test_20_a_settlement_that_was_executed_and_not_answered_is_repeated_in_peace(
    launch: Launcher,
    source: Source,
    history: History,
    proxy: Proxy,
    producer: StreamsBroker,
    actor: str,
) -> None:
    worker = launch(source(JOBS, url=proxy.url), threads=1)
    worker.wait_until_ready()
    cut = proxy.cut(digest("settle"), share=0.5)
    sent = history.send(actor, "job")
    wait_for(cut.happened, "the cut")
    history.injure()
    worker.wait_for_log("Settling 1 deliveries of 'work' failed, trying again")
    history.settle_down()
    history.send("short", "after")
    history.settle_down()
    history.recovered()
    assert worker.terminate() == 0
    ours = [line for line in LOUD.findall(worker.log) if "broker." in line]
    assert ours, "the repetition was not told"
    assert all("trying again" in line for line in ours), ours
    assert history.places().dead == ([sent] if actor == "fail" else [])
    history.check(failures=0, expected_runs=2 if actor == "twice" else 1)


@pytest.mark.slow
@valkey_only
@pytest.mark.usefixtures("loaded")  # a script's text would need longer than a command may take
def test_22_a_bad_line_loses_nothing_and_the_leases_hold(
    launch: Launcher, source: Source, history: History, effects: Effects, proxy: Proxy
) -> None:
    lease_ms = 10_000
    module = source(HOLD, url=proxy.url, heartbeat_timeout=lease_ms)
    worker = launch(module, threads=4)
    worker.wait_until_ready()
    proxy.weather(split=True, bytes_per_s=1000, jitter_s=0.2)
    history.injure()
    history.send("hold", "long")
    history.send_many("short", range(12))
    effects.next("started", label="long")
    # Longer than a lease, which this worker itself would reclaim: only renewals keep it.
    threading.Event().wait(lease_ms / 1000 * 1.2)
    effects.permit("long")
    history.settle_down(timeout_s=60)
    history.recovered()
    assert "eclaimed" not in worker.log
    assert "fenced" not in worker.log
    history.check(failures=0)


#: Together they take longer than a script has until it is given up.
LARGE, LARGE_BYTES, UP_BYTES_PER_S = 8, 250_000, 300_000
SMALL = 40

LARGE_RETRIES = (
    JOBS
    + """

@dramatiq.actor(queue_name="work", max_retries=1, min_backoff=100, max_backoff=100)
def large(label, blob):
    note("started", label)
    if not CurrentMessage.get_current_message().options.get("retries"):
        wait_for_permission("to fail")
        raise RuntimeError("the first attempt always fails")
    note("done", label)
"""
)


@valkey_only
def test_22_large_retries_pass_a_slow_way_and_what_ends_behind_them_runs_once(
    launch: Launcher, source: Source, history: History, effects: Effects, proxy: Proxy
) -> None:
    module = source(LARGE_RETRIES, url=proxy.url, heartbeat_timeout=LEASE_MS)
    worker = launch(module, threads=LARGE)
    worker.wait_until_ready()
    for number in range(LARGE):
        history.send("large", f"large {number}", "x" * LARGE_BYTES)
    effects.take(LARGE, "started")
    proxy.weather(request_bytes_per_s=UP_BYTES_PER_S)
    history.injure()
    effects.permit("to fail", LARGE)
    history.send_many("short", range(SMALL))
    history.settle_down()
    proxy.weather()
    history.recovered()
    assert "eclaimed" not in worker.log
    assert "fenced" not in worker.log
    runs = Counter(effect.message_id for effect in effects.catch_up() if effect.event == "started")
    assert Counter(runs.values()) == {2: LARGE, 1: SMALL}
    history.check(failures=LARGE)


HOLD = (
    JOBS
    + """

@dramatiq.actor(queue_name="work")
def hold(label):
    note("started", label)
    wait_for_permission(label)
    note("done", label)
"""
)


@valkey_only
def test_31_a_server_that_closes_idle_connections_is_not_noticed(
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    producer: StreamsBroker,
    hurt: EmbeddedValkey,
) -> None:
    worker = launch(source(JOBS, heartbeat_timeout=20_000), threads=2)
    worker.wait_until_ready()
    history.send("short", "before")
    effects.next("done")
    history.settle_down()
    with redis.Redis.from_url(hurt.url) as admin:
        admin.config_set("timeout", 1)
        history.injure()
        for label in ("first", "second"):
            eventually(lambda: _idle(admin), lambda idle: idle == 0, what="the closing")
            history.send("short", label)
            effects.next("done", label=label, timeout_s=2)
        history.recovered()
        history.settle_down()
    assert not [line for line in LOUD.findall(worker.log) if "broker" in line]
    history.check(failures=0)


def _idle(admin: redis.Redis) -> int:
    """Connections that nobody has used for a while and nobody blocks on or listens to."""
    clients: Any = admin.client_list()
    quiet = [one for one in clients if int(one["idle"]) >= 1 or int(one["age"]) < 1]
    return len([one for one in quiet if not set(one["flags"]) & {"b", "O", "P"}])


@contextmanager
def killing_connections(url: str, history: History, every_s: float) -> Iterator[None]:
    """CLIENT KILL TYPE normal, again and again, while the block runs."""
    stop = threading.Event()

    def kill() -> None:
        with redis.Redis.from_url(url) as admin:
            while not stop.wait(every_s):
                admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                history.injure()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        stop.set()
        killer.join()


@pytest.mark.usefixtures("durable")
@pytest.mark.parametrize(
    ("seconds", "every_s"), [(3, 0.25), pytest.param(60, 0.5, marks=pytest.mark.slow)]
)
def test_32_killing_all_connections_again_and_again_loses_nothing(
    launch: Launcher,
    source: Source,
    history: History,
    hurt: EmbeddedValkey,
    seconds: float,
    every_s: float,
) -> None:
    launch(source(JOBS), processes=2, threads=2).wait_until_ready()
    pace = threading.Event()
    with killing_connections(hurt.url, history, every_s):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            history.send("short", "job")
            history.send("twice", "job", delay=100)
            pace.wait(0.01)
    history.settle_down()
    history.recovered()
    assert history.finished() == set(history.acknowledged)
    history.check(failures=2, expected_runs=2)


@contextmanager
def no_free_places(admin: redis.Redis) -> Iterator[None]:
    """The workers lose their connections, and nobody gets one while the block runs."""
    before: Any = admin.config_get("maxclients")
    admin.config_set("maxclients", 1)
    admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    try:
        yield
    finally:
        admin.config_set("maxclients", before["maxclients"])


@pytest.mark.usefixtures("durable")
def test_33_a_server_without_free_places_is_waited_for(
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    producer: StreamsBroker,
    hurt: EmbeddedValkey,
) -> None:
    running = launch(source(JOBS), threads=2)
    running.wait_until_ready()
    history.send("short", "before")
    effects.next("done")
    history.settle_down()  # what is still to be settled would outlive its lease, and run again
    with redis.Redis.from_url(hurt.url) as admin, no_free_places(admin):
        running.wait_for_log("max number of clients", count=3)
        late = launch(source(JOBS), threads=2)
        late.wait_until_ready()
        late.wait_for_log("max number of clients")
        history.injure()
    sent = history.send("short", "after")
    assert effects.next("done", label="after").message_id == sent
    assert history.recovered() <= 5
    # Backing off: at most some tries a second for each of its threads.
    assert len(re.findall("max number of clients", running.log)) < 100
    assert not running.ended
    assert not late.ended
    history.send_many("short", range(50))
    history.settle_down()
    history.check(failures=0)
