"""Rows 26, 29, 30 and 41: a server that forgets, or that must not be used."""

from __future__ import annotations

import threading
from collections.abc import Callable

import dramatiq
import pytest
import redis
from dramatiq import Message

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from tests.applications import Effects, application
from tests.conftest import NewBroker, NewServer, StartWorker
from tests.faults.conftest import Source
from tests.faults.history import History
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
"""

#: Dramatiq's default, to prove that resuming does not depend on restarting consumers.
SLOW_RESTART = {"dramatiq_restart_delay": "3000"}


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


def message(actor: str, *args: object) -> Message[None]:
    return Message(queue_name="work", actor_name=actor, args=args, kwargs={}, options={})


def test_29_flushing_the_scripts_under_load_is_invisible(
    hurt: EmbeddedValkey,
    new_broker: NewBroker,
    start_worker: StartWorker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    streams = new_broker("streams", hurt.url)
    assert isinstance(streams, StreamsBroker)
    done: list[int] = []
    attempts: set[int] = set()

    @dramatiq.actor(queue_name="work", max_retries=3, min_backoff=1, max_backoff=1)
    def flaky(number: int) -> None:
        if number % 10 == 0 and number not in attempts:
            attempts.add(number)
            raise dramatiq.Retry
        done.append(number)

    start_worker(streams, threads=4)
    stop = threading.Event()
    flushes: list[int] = []

    def flush() -> None:
        with redis.Redis.from_url(hurt.url) as client:
            while not stop.wait(0.003):
                client.script_flush()
                flushes.append(1)

    flusher = threading.Thread(target=flush)
    flusher.start()
    try:
        for number in range(400):
            flaky.send_with_options(args=(number,), delay=1 if number % 7 == 0 else None)
        for start in range(400, 1000, 100):
            streams.enqueue_many([flaky.message(n) for n in range(start, start + 100)])
        streams.join("work", timeout=int(PATIENCE_S * 1000))
    finally:
        stop.set()
        flusher.join()
    assert len(flushes) > 10
    assert sorted(done) == list(range(1000))
    assert streams.inspector.queue("work").dead == 0
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
