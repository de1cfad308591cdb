"""The worker's own threads: one that dies alone is replaced, one that is busy renews leases."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.errors import ConnectionClosed

from broker import StreamsBroker
from broker.commands import BEGINNING, Commands
from broker.embedded import EmbeddedValkey
from broker.settlement import Settlement
from tests.conftest import NewBroker, StartWorker
from tests.contract.recording import Seen
from tests.waiting import PATIENCE_S, eventually, wait_for

#: Time that has to pass without anything to wait for, by this clock only.
QUIET = threading.Event()
TIMEOUT_MS = int(PATIENCE_S * 1000)
LEASE_MS = 600
JOBS = 10


@pytest.fixture
def seen(server: EmbeddedValkey, new_broker: NewBroker, start_worker: StartWorker) -> Seen:
    streams = new_broker("streams", server.url, heartbeat_timeout=LEASE_MS)
    recorded = Seen()
    dramatiq.actor(queue_name="work", broker=streams, actor_name="record")(recorded.add)
    start_worker(streams)
    return recorded


def alive(name: str) -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == name and each.is_alive()]


@pytest.mark.parametrize(("command", "thread"), [("reclaim", "keeper"), ("settle", "settler")])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_08_a_thread_that_dies_alone_is_started_again_and_nothing_is_lost(
    seen: Seen,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    command: str,
    thread: str,
) -> None:
    streams = dramatiq.get_broker()
    assert isinstance(streams, StreamsBroker)
    # A worker of an earlier test may still be at its last round.
    (before,) = eventually(lambda: alive(f"headrace-{thread}"), lambda found: len(found) == 1)
    real, armed = getattr(Commands, command), threading.Event()

    def dies_once(*args: Any, **kwargs: Any) -> Any:
        if armed.is_set() and threading.current_thread() is before:
            armed.clear()
            raise SystemExit
        return real(*args, **kwargs)

    monkeypatch.setattr(Commands, command, dies_once)
    armed.set()
    streams.enqueue(streams.get_actor("record").message("job"))
    assert seen.next() == "job"
    eventually(before.is_alive, lambda running: not running, what="the thread's death")
    eventually(lambda: alive(f"headrace-{thread}"), lambda found: found not in ([], [before]))
    assert f"The {thread}'s thread has died" in caplog.text
    streams.join("work", timeout=TIMEOUT_MS)


def test_an_end_that_cannot_be_written_does_not_hinder_the_others(
    seen: Seen, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    streams = dramatiq.get_broker()
    assert isinstance(streams, StreamsBroker)
    client: Any = streams.client
    keys = streams.commands.keys("work")
    real, all_ran = Commands.settle, threading.Event()

    def together(*args: Any, **kwargs: Any) -> Any:
        all_ran.wait(PATIENCE_S)
        return real(*args, **kwargs)

    monkeypatch.setattr(Commands, "settle", together)
    record = streams.get_actor("record")
    messages = [record.message(number) for number in range(6)]
    streams.enqueue_many(messages)
    assert sorted(seen.take(6)) == list(range(6))
    client.set(f"{keys.job_prefix}{messages[3].message_id}", "no hash")
    all_ran.set()
    left = eventually(lambda: client.xrange(keys.ready[0]), lambda found: len(found) == 1)
    assert left[0][1][b"id"].decode() == messages[3].message_id
    assert f"Settling message {messages[3].message_id!r} of 'work' failed" in caplog.text
    assert "Lost the lease" not in caplog.text, "those before it were settled together with it"
    client.delete(f"{keys.job_prefix}{messages[3].message_id}")
    assert seen.next() == 3
    streams.join("work", timeout=TIMEOUT_MS)
    assert seen.nothing_more()


@pytest.mark.parametrize("command", ["sweep", "forget", "lapse", "reclaim"])
def test_leases_are_renewed_however_much_the_keeper_has_to_clear_away(
    server: EmbeddedValkey,
    new_broker: NewBroker,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    streams = new_broker("streams", server.url, heartbeat_timeout=600)
    assert isinstance(streams, StreamsBroker)
    begun, finish, renewals = threading.Event(), threading.Event(), Seen()

    @dramatiq.actor(queue_name="work", broker=streams)
    def hold() -> None:
        begun.set()
        wait_for(finish, "the test to go on")

    real, renew = getattr(Commands, command), Commands.renew

    def has_no_end(*args: Any) -> Any:
        return max(real(*args), 500)

    def takes_long(*args: Any, **kwargs: Any) -> Any:
        QUIET.wait(0.1)
        return dataclasses.replace(real(*args, **kwargs), position=BEGINNING)

    def renewing(commands: Commands, queue: str, leases: Any) -> Any:
        if leases:
            renewals.add(leases)
        return renew(commands, queue, leases)

    monkeypatch.setattr(Commands, command, takes_long if command == "reclaim" else has_no_end)
    monkeypatch.setattr(Commands, "renew", renewing)
    hold.send()
    start_worker(streams)
    wait_for(begun, "the job")
    renewals.take(4)
    finish.set()


def test_a_step_of_the_keeper_that_fails_keeps_it_from_no_other(
    seen: Seen, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    streams = dramatiq.get_broker()
    assert isinstance(streams, StreamsBroker)
    client: Any = streams.client
    keys = streams.commands.keys("work")
    failed = threading.Event()

    def fails(*args: Any, **kwargs: Any) -> Any:
        failed.set()
        raise ValueError("a defect")

    monkeypatch.setattr(Commands, "reclaim", fails)
    wait_for(failed, "a reclaim")
    client.hset(f"{keys.job_prefix}old", "state", "completed")
    client.zadd(keys.recent("completed"), {"old": 1})
    eventually(lambda: client.zcard(keys.recent("completed")), lambda left: not left)
    assert "Keeping queue 'work' failed" in caplog.text


def test_what_has_ended_and_is_not_written_keeps_its_lease_and_nothing_more_is_taken(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = dramatiq.get_broker()
    assert isinstance(streams, StreamsBroker)
    real, away, tried = Commands.settle, threading.Event(), Seen()
    away.set()

    def not_there(*args: Any, **kwargs: Any) -> Any:
        if away.is_set():
            tried.add("a settlement")
            raise ConnectionClosed(OSError("too slow"))
        return real(*args, **kwargs)

    monkeypatch.setattr(Commands, "settle", not_there)
    record = streams.get_actor("record")
    streams.enqueue(record.message("first"))
    assert seen.next() == "first"
    tried.take(2)
    streams.enqueue_many([record.message(number) for number in range(JOBS)])
    threading.Event().wait(3 * LEASE_MS / 1000)  # nothing tells of a lease that does not run out
    info = streams.inspector.queue("work")
    assert info.in_flight <= 2, "the consumer was waiting for one of them at the most"
    assert info.ready == JOBS + 1 - info.in_flight
    away.clear()
    assert sorted(seen.take(JOBS)) == list(range(JOBS))
    streams.join("work", timeout=TIMEOUT_MS)
    assert seen.nothing_more()


def test_a_batch_that_takes_too_long_is_written_one_by_one(
    seen: Seen, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    streams = dramatiq.get_broker()
    assert isinstance(streams, StreamsBroker)
    real, all_ran = Commands.settle, threading.Event()

    def slow(commands: Commands, queue: str, batch: list[Settlement], *args: Any) -> Any:
        all_ran.wait(PATIENCE_S)
        if len(batch) > 1:
            raise ConnectionClosed("too slow") from redis.TimeoutError("too slow")
        return real(commands, queue, batch, *args)

    monkeypatch.setattr(Commands, "settle", slow)
    record = streams.get_actor("record")
    streams.enqueue_many([record.message(number) for number in range(JOBS)])
    assert sorted(seen.take(JOBS)) == list(range(JOBS))
    all_ran.set()
    streams.join("work", timeout=TIMEOUT_MS)
    assert "Lost the lease" not in caplog.text
    assert seen.nothing_more()
