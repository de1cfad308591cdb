"""Rows 23, 24, 26, 29, 30, 39, 41 and 42: a server that stops, forgets, or is full."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import dramatiq
import pytest
import redis
from dramatiq.common import current_millis
from dramatiq.errors import BrokerConnectionError
from dramatiq.middleware import CurrentMessage

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from broker.errors import ServerOutOfMemory
from tests.applications import Effects, application
from tests.conftest import NewBroker, NewServer, StartWorker
from tests.faults.conftest import LEASE_MS, Source, valkey_only
from tests.faults.history import History
from tests.faults.signals import frozen
from tests.processes import CommandLine, Launcher
from tests.waiting import PATIENCE_S, eventually

SHORT = """
@dramatiq.actor(queue_name="work")
def short(label):
    note("started", label)
    note("done", label)


@dramatiq.actor(queue_name="work")
def hold(label):
    note("started", label)
    wait_for_permission(label)
    note("done", label)


@dramatiq.actor(queue_name="work", actor_name="fails later", max_retries=0)
def fail(label):
    note("started", label)
    wait_for_permission(label)
    raise RuntimeError("on purpose")
"""

#: Dramatiq's default, to prove that resuming does not depend on restarting consumers.
SLOW_RESTART = {"dramatiq_restart_delay": "3000"}


@pytest.mark.parametrize(
    ("seconds", "lease_ms"),
    [
        pytest.param(1, 3000, id="below the lease"),
        pytest.param(2.5, 1500, id="above the lease"),
        pytest.param(10, 20_000, id="10 s, below the lease", marks=pytest.mark.slow),
        pytest.param(10, 3000, id="10 s, above the lease", marks=pytest.mark.slow),
    ],
)
def test_23_a_frozen_server_repeats_a_job_once_at_most_and_doubles_no_enqueue(
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    hurt: EmbeddedValkey,
    seconds: float,
    lease_ms: int,
) -> None:
    module = source(SHORT, heartbeat_timeout=lease_ms)
    launch(module, threads=8).wait_until_ready()
    launch(module, threads=8).wait_until_ready()
    held = [history.send("hold", f"held {number}") for number in range(4)]
    effects.take(4, "started")
    history.injure()
    with ThreadPoolExecutor(4) as callers, frozen(hurt.pid):
        # Enqueued into the silence: the client gives up after 5 s and sends it again, once.
        sent = [callers.submit(history.insist, "short", f"silent {number}") for number in range(4)]
        threading.Event().wait(seconds)
    ids = [each.result() for each in sent]
    # A read that its consumer gave up may still be executed: what it took waits for its lease.
    effects.take(4, "done", timeout_s=PATIENCE_S + 1.5 * lease_ms / 1000)
    history.recovered()
    for number in range(4):
        effects.permit(f"held {number}", 2)
    history.settle_down()
    assert history.finished() == {*held, *ids}
    if seconds * 1000 < lease_ms:
        assert max(history.executions().values()) == 1, "a lease ran out too early"
    history.check(failures=1)


@contextmanager
def sending(history: History) -> Iterator[None]:
    """Enqueue from several threads, ready and delayed, for as long as the block runs."""
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(0.002):
            with suppress(BrokerConnectionError):
                history.send("short", "job")
                history.send("short", "job", delay=200)

    with ThreadPoolExecutor(4) as callers:
        senders = [callers.submit(send) for _ in range(4)]
        try:
            yield
        finally:
            stop.set()
        for sender in senders:
            sender.result()


def test_24_a_killed_server_with_an_append_only_file_loses_nothing_acknowledged(
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    durable: EmbeddedValkey,
) -> None:
    # What the server's process wrote survives its SIGKILL: the second of `everysec` is about
    # the machine losing power.
    with redis.Redis.from_url(durable.url) as admin:
        assert admin.config_get("appendfsync") == {"appendfsync": "everysec"}
    launch(source(SHORT), processes=2, threads=4).wait_until_ready()
    with sending(history):
        effects.take(100, "done")
        history.injure()
        durable.kill()
        durable.start()
        before = len(effects.catch_up())
        eventually(lambda: len(effects.catch_up()), lambda seen: seen > before, what="the next job")
        assert history.recovered() <= 5
        effects.take(100, "done")
    history.settle_down()
    assert set(history.acknowledged) <= history.finished()
    history.check(failures=1)


@pytest.mark.usefixtures("forgetful")
def test_26_a_server_that_restarts_empty_is_used_again_and_the_loss_is_reported(
    launch: Launcher,
    source: Source,
    hurt: EmbeddedValkey,
    history: History,
    effects: Effects,
) -> None:
    worker = launch(source(SHORT), threads=2)
    worker.wait_until_ready()
    history.send("short", "before")
    effects.next("done")
    in_flight = history.send("hold", "in flight")
    effects.next("started", label="in flight")
    history.injure()
    hurt.kill()
    hurt.start()
    history.send("short", "after")
    effects.next("done", label="after")
    history.recovered()
    effects.permit("in flight")
    # The job that ran during the restart ended, and there was nothing left to settle.
    worker.wait_for_log(rf"Message '{in_flight}' is lost")
    eventually(lambda: history.broker.inspector.size("work"), lambda left: left == 0)
    assert not worker.ended
    history.check(failures=1)


def test_29_flushing_the_scripts_under_load_is_invisible(
    hurt: EmbeddedValkey,
    history: History,
    effects: Effects,
    new_broker: NewBroker,
    start_worker: StartWorker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    streams = new_broker("streams", hurt.url)
    assert isinstance(streams, StreamsBroker)
    streams.add_middleware(CurrentMessage())
    attempts: set[int] = set()

    @dramatiq.actor(queue_name="work", max_retries=3, min_backoff=1, max_backoff=1)
    def flaky(number: int) -> None:
        current = CurrentMessage.get_current_message()
        assert current is not None
        effects.note("started", [current.message_id])
        if number % 10 == 0 and number not in attempts:
            attempts.add(number)
            raise dramatiq.Retry
        effects.note("done", [current.message_id])

    start_worker(streams, threads=4)
    stop = threading.Event()
    flushes: list[int] = []

    def flush() -> None:
        with redis.Redis.from_url(hurt.url) as client:
            while not stop.wait(0.003):
                client.script_flush()
                history.injure()
                flushes.append(1)

    flusher = threading.Thread(target=flush)
    flusher.start()
    try:
        for number in range(400):
            delay = 1 if number % 7 == 0 else None
            sent = flaky.send_with_options(args=(number,), delay=delay)
            history.acknowledge([sent.message_id])
        for start in range(400, 1000, 100):
            many = streams.enqueue_many([flaky.message(n) for n in range(start, start + 100)])
            history.acknowledge([each.message_id for each in many])
        streams.join("work", timeout=int(PATIENCE_S * 1000))
    finally:
        stop.set()
        flusher.join()
    assert len(flushes) > 10
    history.recovered()
    assert len(history.acknowledged) == 1000
    assert history.finished() == set(history.acknowledged)
    history.check(failures=0, expected_runs=2)
    loud = [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]
    assert not loud, [record.getMessage() for record in loud]


def flush_all(client: redis.Redis, prefix: str) -> None:
    client.flushall()


def delete_ready(client: redis.Redis, prefix: str) -> None:
    client.delete(*[f"{prefix}:ready:{level}" for level in range(10)])


def delete_wake(client: redis.Redis, prefix: str) -> None:
    client.delete(f"{prefix}:wake")


def destroy_group(client: redis.Redis, prefix: str) -> None:
    client.xgroup_destroy(f"{prefix}:ready:0", "workers")


@pytest.mark.parametrize("injure", [flush_all, delete_ready, delete_wake, destroy_group])
def test_30_a_blocked_worker_resumes_when_its_stream_or_group_is_taken_away(
    launch: Launcher,
    source: Source,
    hurt: EmbeddedValkey,
    namespace: str,
    history: History,
    effects: Effects,
    injure: Callable[[redis.Redis, str], None],
) -> None:
    worker = launch(source(SHORT), threads=1, environment=SLOW_RESTART)
    worker.wait_until_ready()
    with redis.Redis.from_url(hurt.url) as client:
        history.wait_until_blocked()
        history.injure()
        injure(client, f"{{{namespace}:work}}")
    history.send("short", "ready")
    effects.next("done", label="ready")
    assert history.recovered() <= 2
    history.send("short", "delayed", delay=100)
    effects.next("done", label="delayed")
    assert not worker.ended
    history.settle_down()
    history.check(failures=0)


def test_39_a_full_server_refuses_new_jobs_and_lets_the_running_ones_end(
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    producer: StreamsBroker,
) -> None:
    worker = launch(source(SHORT), threads=2)
    worker.wait_until_ready()
    finished = history.send("hold", "finished")
    buried = history.send("fails later", "buried")
    effects.take(2, "started")
    waiting = history.send_many("short", range(20))
    history.injure()
    producer.client.config_set("maxmemory", "1")
    with pytest.raises(ServerOutOfMemory):
        history.send("short", "refused")
    with pytest.raises(ServerOutOfMemory):
        history.send("short", "refused", delay=100)
    with pytest.raises(ServerOutOfMemory):
        history.send_many("short", range(300))
    effects.permit("finished")
    effects.permit("buried")
    # No place is needed to make place: everything that was accepted comes to its end.
    history.settle_down()
    assert history.finished() == {finished, *waiting}
    assert producer.inspector.queue("work").dead == 1
    producer.client.config_set("maxmemory", "0")
    assert history.places().dead == [buried]
    history.injure()
    history.send("short", "after")
    effects.next("done", label="after")
    history.recovered()
    history.settle_down()
    assert len(history.executions()) == len(history.acknowledged), "a refused job was executed"
    assert not worker.ended
    history.check(failures=0)


HOUR_MS = 3_600_000

#: The process believes that it is another time: whoever asks the wall clock is told so.
WRONG_CLOCK = """
import dramatiq.common

_right = time.time
time.time = dramatiq.common.time = lambda: _right() + {offset_s}
assert abs(dramatiq.common.current_millis() - _right() * 1000 - {offset_s} * 1000) < 1000


@dramatiq.actor(queue_name="work", max_retries=1, min_backoff=300, max_backoff=300)
def twice(label):
    note("started", label)
    if not CurrentMessage.get_current_message().options.get("retries"):
        raise RuntimeError("the first attempt always fails")
    note("done", label)
"""


@valkey_only
@pytest.mark.parametrize("whose", ["worker", "everybody but the server"])
@pytest.mark.parametrize("hours", [1, -1])
def test_42_a_clock_that_is_an_hour_off_makes_nothing_early_and_nothing_stick(
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    producer: StreamsBroker,
    monkeypatch: pytest.MonkeyPatch,
    hours: int,
    whose: str,
) -> None:
    right = time.time
    if whose != "worker":  # so it is the server's that is off, for all the others
        monkeypatch.setattr("dramatiq.common.time", lambda: right() + hours * 3600)
        assert abs(current_millis() - right() * 1000 - hours * HOUR_MS) < 1000
    history.injure()
    worker = launch(source(SHORT + WRONG_CLOCK.format(offset_s=hours * 3600)), threads=4)
    worker.wait_until_ready()
    later = [history.send("short", "in 50 minutes", delay=50 * 60_000) for _ in range(50)]
    began = time.monotonic()
    soon = [history.send("short", "soon", delay=800) for _ in range(20)]
    retried = history.send("twice", "now")
    now = history.send("short", "now")
    first, *rest = effects.take(20, "done", timeout_s=5)[2:]
    assert first.at_s - began >= 0.8, "early"
    assert rest[-1].at_s - began <= 0.8 + 1.5, "late"
    eventually(history.finished, lambda done: done == {*soon, retried, now}, what="the end")
    history.recovered()
    # A lease by a wrong clock would be over at once, or never.
    held = history.send("hold", "held")
    effects.next("started", label="held")
    threading.Event().wait(LEASE_MS / 1000 * 1.2)
    effects.permit("held")
    assert effects.next("done", label="held").message_id == held
    eventually(lambda: history.places().in_flight, lambda left: not left, what="an idle worker")
    assert sorted(history.places().scheduled) == sorted(later)
    assert "eclaimed" not in worker.log
    history.check(failures=0, expected_runs=2)


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_41_a_server_that_evicts_is_refused_with_the_reason(
    launch: Launcher, own_server: NewServer, namespace: str, policy: str
) -> None:
    evicting = own_server(config={"maxmemory-policy": policy})
    worker: CommandLine = launch(application("streams", evicting.url, namespace, SHORT))
    assert worker.wait() == 3, worker.log
    assert "maxmemory-policy" in worker.log
    assert policy in worker.log
    assert "noeviction" in worker.log
