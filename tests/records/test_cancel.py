"""Cancelling jobs: those that wait, those that run, and those that nobody runs any more."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import dramatiq
import pytest
import redis
from dramatiq import Message, Worker
from dramatiq.middleware import Middleware, Retries, SkipMessage

from broker import JobCancelled, State, StreamsBroker
from broker.embedded import EmbeddedValkey
from tests.conftest import NewBroker, StartWorker
from tests.waiting import PATIENCE_S, eventually, wait_for

PATIENCE_MS = int(PATIENCE_S * 1000)


def spin(started: threading.Event) -> NoReturn:
    """Run for ever; an interrupt comes between two instructions."""
    started.set()
    while True:
        time.sleep(0.01)


def run_and_cancel(
    broker: StreamsBroker,
    act: dramatiq.Actor[[], None],
    start_worker: StartWorker,
    started: threading.Event,
) -> State:
    """Send the job, cancel it while it runs, and tell how it ended."""
    message = act.send()
    start_worker(broker)
    wait_for(started, "the job to begin")
    broker.jobs.cancel(message)
    return broker.jobs.wait(message, timeout=PATIENCE_MS).state


def state_of(broker: StreamsBroker, message: Message[Any]) -> State | None:
    record = broker.jobs.get(message)
    return None if record is None else record.state


def cancelled(broker: StreamsBroker, message: Message[Any]) -> bool:
    return state_of(broker, message) is State.CANCELLED


def test_a_job_that_waits_is_cancelled_at_once(broker: StreamsBroker) -> None:
    @dramatiq.actor
    def act() -> None: ...

    queued = act.send()
    scheduled = act.send_with_options(delay=60_000)
    for message in (queued, scheduled):
        assert broker.jobs.cancel(message)
        assert cancelled(broker, message)
        assert not broker.jobs.cancel(message.message_id)
    assert broker.inspector.size("default") == 0


def test_a_cancelled_job_frees_its_deduplication_key(broker: StreamsBroker) -> None:
    @dramatiq.actor
    def act() -> None: ...

    first = act.send_with_options(deduplication_key="k")
    broker.jobs.cancel(first)
    second = act.send_with_options(deduplication_key="k")
    assert second.message_id != first.message_id


@pytest.mark.parametrize("kind", ["thread", "asyncio"])
def test_a_running_job_is_interrupted_within_a_second_and_not_tried_again(
    broker: StreamsBroker, start_worker: StartWorker, kind: str
) -> None:
    runs: list[str] = []
    started, tidied = threading.Event(), threading.Event()

    def begin() -> None:
        runs.append(kind)
        started.set()

    if kind == "thread":

        @dramatiq.actor(max_retries=3, min_backoff=1, max_backoff=1)
        def act() -> None:
            begin()
            try:
                while True:
                    time.sleep(0.01)  # an interrupt comes between two instructions
            except JobCancelled:
                tidied.set()
                raise
    else:

        @dramatiq.actor(max_retries=3, min_backoff=1, max_backoff=1)
        async def act() -> None:
            await asyncio.sleep(0.2)  # the worker's thread waits for it now, and can be interrupted
            begin()
            try:
                await asyncio.sleep(PATIENCE_S)
            except asyncio.CancelledError:
                tidied.set()
                raise

    message = act.send()
    start_worker(broker)
    wait_for(started, "the job to begin")
    asked = time.monotonic()
    assert broker.jobs.cancel(message)
    record = broker.jobs.wait(message, timeout=PATIENCE_MS)
    took_s = time.monotonic() - asked
    assert (record.state, record.error, record.attempts) == (State.CANCELLED, "", 1)
    assert tidied.is_set()
    assert took_s < 1
    assert runs == [kind]
    assert broker.inspector.queue("default").dead == 0


def test_a_prefetched_job_is_cancelled_before_it_begins(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    runs: list[int] = []
    started, go_on = threading.Event(), threading.Event()

    @dramatiq.actor
    def act(number: int) -> None:
        runs.append(number)
        started.set()
        wait_for(go_on, "the test to go on")

    _, second = act.send(1), act.send(2)
    start_worker(broker, threads=1)
    wait_for(started, "the first job to begin")
    eventually(lambda: state_of(broker, second), lambda state: state is State.RUNNING)
    assert broker.jobs.cancel(second)
    asked = broker.jobs.get(second)
    assert asked is not None
    assert asked.cancel_requested
    delivery = broker.worker.in_flight("default").holds(second.message_id)
    eventually(lambda: delivery is not None and delivery.cancelled, bool)
    go_on.set()
    assert broker.jobs.wait(second, timeout=PATIENCE_MS).state is State.CANCELLED
    assert runs == [1]


def test_a_job_that_ends_in_spite_of_it_has_completed(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    started = threading.Event()

    @dramatiq.actor
    def act() -> None:
        try:
            spin(started)
        except JobCancelled:
            return

    assert run_and_cancel(broker, act, start_worker, started) is State.COMPLETED


def test_a_job_that_raises_something_else_when_cancelled_is_cancelled(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    started = threading.Event()

    @dramatiq.actor(max_retries=5, min_backoff=1, max_backoff=1)
    def act() -> None:
        try:
            spin(started)
        except JobCancelled as interrupt:
            raise ValueError("torn") from interrupt

    assert run_and_cancel(broker, act, start_worker, started) is State.CANCELLED


class Held(logging.Handler):
    """Holds up the thread that logs that a job has ended badly."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go_on = threading.Event(), threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if not self.reached.is_set() and "essage" in record.msg:
            self.reached.set()
            while not self.go_on.wait(0.01):  # an interrupt comes between two instructions
                pass


@pytest.fixture
def held() -> Iterator[Held]:
    logger, made = logging.getLogger("dramatiq.worker.WorkerThread"), Held()
    logger.addHandler(made)
    yield made
    made.go_on.set()
    logger.removeHandler(made)


@pytest.mark.parametrize("error", [RuntimeError("on purpose"), SkipMessage("no need")], ids=repr)
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_job_that_is_cancelled_while_its_failure_is_logged_ends_no_thread(
    broker: StreamsBroker, start_worker: StartWorker, held: Held, error: Exception
) -> None:
    second = threading.Event()

    @dramatiq.actor(max_retries=0)
    def act(number: int) -> None:
        if number == 2:
            second.set()
            return
        raise error

    message = act.send(1)
    start_worker(broker, threads=1)
    wait_for(held.reached, "the log of the failure")
    delivery = broker.worker.in_flight("default").holds(message.message_id)
    assert delivery is not None
    assert broker.jobs.cancel(message)
    eventually(lambda: delivery.cancelled, bool, what="the worker hears of it")
    held.go_on.set()
    act.send(2)
    wait_for(second, "the next job on the same thread")
    broker.join("default", timeout=PATIENCE_MS)


def test_a_job_that_has_called_another_actors_function_is_still_interrupted(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    started = threading.Event()

    @dramatiq.actor
    def part() -> str:
        return "done"

    @dramatiq.actor
    def act() -> None:
        assert part() == "done"
        spin(started)

    assert part() == "done", "outside of a job"
    assert run_and_cancel(broker, act, start_worker, started) is State.CANCELLED


def test_a_broker_without_retries_cancels_as_well(
    server: EmbeddedValkey, new_broker: NewBroker, start_worker: StartWorker
) -> None:
    none: list[Middleware] = []
    broker = new_broker("streams", server.url, middleware=none)
    assert isinstance(broker, StreamsBroker)
    assert not any(isinstance(each, Retries) for each in broker.middleware)
    started = threading.Event()

    @dramatiq.actor
    def act() -> None:
        spin(started)

    assert run_and_cancel(broker, act, start_worker, started) is State.CANCELLED


def test_a_cancel_that_nobody_heard_is_found_by_the_next_renewal(
    server: EmbeddedValkey, new_broker: NewBroker, start_worker: StartWorker, client: redis.Redis
) -> None:
    broker = new_broker("streams", server.url, heartbeat_timeout=600)
    assert isinstance(broker, StreamsBroker)
    started = threading.Event()

    @dramatiq.actor
    def act() -> None:
        spin(started)

    message = act.send()
    start_worker(broker)
    wait_for(started, "the job to begin")
    # As `cancel` leaves it, without the word that workers listen for.
    client.hset(broker.commands.keys("default").job_prefix + message.message_id, "cancel", "1")
    assert broker.jobs.wait(message, timeout=PATIENCE_MS).state is State.CANCELLED


def test_a_job_whose_worker_died_after_the_cancel_is_not_run_again(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    runs: list[str] = []

    @dramatiq.actor
    def act() -> None:
        runs.append("run")

    message = act.send()
    # A consumer that takes it and is never heard of again.
    fetched = broker.commands.fetch(
        "default", "gone", 1, lowest_first=False, suspects=0, signals=()
    )
    assert len(fetched.deliveries) == 1
    assert broker.jobs.cancel(message)
    assert not cancelled(broker, message)
    broker.commands.reclaim_consumer("default", 0, "gone", 5, 10)
    assert cancelled(broker, message)
    worker: Worker = start_worker(broker)
    broker.join("default", timeout=PATIENCE_MS)
    worker.join()
    assert runs == []


def test_an_unknown_job_is_not_cancelled(broker: StreamsBroker) -> None:
    broker.declare_queue("default")
    assert not broker.jobs.cancel("nobody")
