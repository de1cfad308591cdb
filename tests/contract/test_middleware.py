"""Dramatiq's middleware and one's own."""

from __future__ import annotations

import asyncio
import threading

import dramatiq
import pytest
from dramatiq import Broker, Message, MessageProxy
from dramatiq.middleware import (
    AsyncIO,
    CurrentMessage,
    Middleware,
    MiddlewareError,
    Retries,
    Shutdown,
    ShutdownNotifications,
    TimeLimit,
    TimeLimitExceeded,
)

from broker.embedded import EmbeddedValkey
from tests.conftest import NewBroker, StartWorker
from tests.contract.brokers import BrokerKind, dead_count
from tests.contract.recording import Seen, Signals
from tests.waiting import PATIENCE_S, wait_for

TIMEOUT_MS = int(PATIENCE_S * 1000)


def test_an_async_actor_runs_on_the_event_loop(broker: Broker, start_worker: StartWorker) -> None:
    broker.add_middleware(AsyncIO())
    seen = Seen()

    @dramatiq.actor
    async def record(value: int) -> None:
        await asyncio.sleep(0)
        seen.add((value, asyncio.get_running_loop().is_running()))

    start_worker(broker)
    record.send(1)
    record.send_with_options(args=(2,), delay=1)
    assert sorted(seen.take(2)) == [(1, True), (2, True)]
    broker.join(record.queue_name, timeout=TIMEOUT_MS)


def test_the_current_message_is_known_inside_an_actor_only(
    broker: Broker, start_worker: StartWorker
) -> None:
    broker.add_middleware(CurrentMessage())
    seen = Seen()

    @dramatiq.actor
    def record(value: int) -> None:
        current = CurrentMessage.get_current_message()
        assert current is not None
        seen.add((current.message_id, current.queue_name, current.actor_name, current.args))

    start_worker(broker)
    sent = record.send_with_options(args=(1,), delay=1)
    assert seen.next() == (sent.message_id, "default", "record", (1,))
    assert CurrentMessage.get_current_message() is None


def test_a_shutdown_interrupts_a_job_that_asked_for_it_and_the_next_worker_runs_it_again(
    broker: Broker, start_worker: StartWorker
) -> None:
    seen = Seen()
    started = threading.Event()
    patient = threading.Event()

    @dramatiq.actor(notify_shutdown=True, max_retries=3, min_backoff=20, max_backoff=20)
    def interruptible() -> None:
        if patient.is_set():
            seen.add("done")
            return
        started.set()
        try:
            while not patient.wait(0.02):
                pass
        except Shutdown:
            seen.add("interrupted")
            raise

    worker = start_worker(broker, threads=1)
    interruptible.send()
    wait_for(started, "the job's start")
    worker.stop(timeout=10_000)
    assert seen.next() == "interrupted"
    patient.set()
    start_worker(broker, threads=1)
    assert seen.next() == "done"
    broker.join(interruptible.queue_name, timeout=TIMEOUT_MS)
    assert dead_count(broker, interruptible.queue_name) == 0


def test_a_job_past_its_time_limit_is_interrupted(
    broker_kind: BrokerKind,
    server: EmbeddedValkey,
    new_broker: NewBroker,
    start_worker: StartWorker,
) -> None:
    stack = [TimeLimit(time_limit=150, interval=20), ShutdownNotifications(), Retries()]
    broker = new_broker(broker_kind, server.url, middleware=stack)
    seen = Seen()
    never = threading.Event()

    @dramatiq.actor(max_retries=0)
    def endless() -> None:
        try:
            while not never.wait(0.02):
                pass
        except TimeLimitExceeded:
            seen.add("interrupted")
            raise

    start_worker(broker)
    endless.send()
    assert seen.next() == "interrupted"
    broker.join(endless.queue_name, timeout=TIMEOUT_MS)
    assert dead_count(broker, endless.queue_name) == 1


def test_a_message_past_its_age_limit_is_buried_unexecuted(
    broker: Broker, start_worker: StartWorker
) -> None:
    signals = Signals("after_nack", "after_skip_message")
    broker.add_middleware(signals)
    seen = Seen()

    @dramatiq.actor(max_age=60_000)
    def record(value: str) -> None:
        seen.add(value)

    old = record.message("old")
    old = old.copy(message_timestamp=old.message_timestamp - 61_000)
    broker.enqueue(old)
    record.send("young")
    start_worker(broker, threads=1)
    assert seen.next() == "young"
    assert signals.seen.take(2) == [
        ("after_skip_message", old.message_id),
        ("after_nack", old.message_id),
    ]
    broker.join(record.queue_name, timeout=TIMEOUT_MS)
    assert dead_count(broker, record.queue_name) == 1


class Refusal(Middleware):
    """Raises before every enqueue."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def before_enqueue(self, broker: Broker, message: Message[object], delay: int | None) -> None:
        raise self.error


def test_a_middleware_error_before_enqueue_reaches_the_caller_and_nothing_is_stored(
    broker: Broker, start_worker: StartWorker
) -> None:
    @dramatiq.actor
    def record() -> None:
        raise AssertionError("never runs")

    broker.add_middleware(Refusal(MiddlewareError("refused")))
    for delay in (None, 10):
        with pytest.raises(MiddlewareError, match="refused"):
            record.send_with_options(delay=delay)
    start_worker(broker)
    broker.join(record.queue_name, timeout=TIMEOUT_MS)
    assert dead_count(broker, record.queue_name) == 0


def test_any_other_error_before_enqueue_is_logged_and_the_message_is_stored(
    broker: Broker, start_worker: StartWorker
) -> None:
    seen = Seen()

    @dramatiq.actor
    def record() -> None:
        seen.add("done")

    broker.add_middleware(Refusal(ValueError("broken middleware")))
    record.send()
    start_worker(broker)
    assert seen.next() == "done"


class Enqueues(Middleware):
    """Records what the enqueue signals are given."""

    def __init__(self) -> None:
        self.seen = Seen()

    def before_enqueue(self, broker: Broker, message: Message[object], delay: int | None) -> None:
        self.seen.add(("before", message.message_id, delay))

    def after_enqueue(self, broker: Broker, message: Message[object], delay: int | None) -> None:
        self.seen.add(("after", message.message_id, delay))


def test_enqueueing_is_signalled_before_and_after_with_its_delay(broker: Broker) -> None:
    @dramatiq.actor
    def record() -> None:
        raise AssertionError("never runs")

    enqueues = Enqueues()
    broker.add_middleware(enqueues)
    for delay in (None, 60_000):
        sent = record.send_with_options(delay=delay)
        assert enqueues.seen.take(2) == [
            ("before", sent.message_id, delay),
            ("after", sent.message_id, delay),
        ]


class Stamp(Middleware):
    """Changes the options before the message is stored, as tracing does."""

    def before_enqueue(self, broker: Broker, message: Message[object], delay: int | None) -> None:
        message.options["stamp"] = "stamped"


@pytest.mark.parametrize("delay", [None, 1])
def test_options_that_a_middleware_adds_before_enqueue_are_stored(
    broker: Broker, start_worker: StartWorker, delay: int | None
) -> None:
    broker.add_middleware(Stamp())
    broker.add_middleware(CurrentMessage())
    seen = Seen()

    @dramatiq.actor
    def record() -> None:
        current = CurrentMessage.get_current_message()
        assert current is not None
        seen.add(current.options.get("stamp"))

    record.send_with_options(delay=delay)
    start_worker(broker)
    assert seen.next() == "stamped"


def test_a_success_is_acked_and_a_failure_is_nacked(
    broker: Broker, start_worker: StartWorker
) -> None:
    signals = Signals("before_ack", "after_ack", "before_nack", "after_nack")
    broker.add_middleware(signals)

    @dramatiq.actor(max_retries=0)
    def halve(value: int) -> None:
        if value % 2:
            raise ValueError("odd")

    start_worker(broker, threads=1)
    even = halve.send(2)
    assert signals.seen.take(2) == [
        ("before_ack", even.message_id),
        ("after_ack", even.message_id),
    ]
    odd = halve.send(1)
    assert signals.seen.take(2) == [
        ("before_nack", odd.message_id),
        ("after_nack", odd.message_id),
    ]
    broker.join(halve.queue_name, timeout=TIMEOUT_MS)
    assert dead_count(broker, halve.queue_name) == 1


class Skipping(Middleware):
    """Skips every message without failing it."""

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        raise dramatiq.middleware.SkipMessage("not today")


def test_a_skipped_message_is_done(broker: Broker, start_worker: StartWorker) -> None:
    signals = Signals("after_skip_message", "after_ack", "after_nack")
    broker.add_middleware(signals)
    broker.add_middleware(Skipping())

    @dramatiq.actor
    def record() -> None:
        raise AssertionError("never runs")

    start_worker(broker)
    sent = record.send()
    assert signals.seen.take(2) == [
        ("after_skip_message", sent.message_id),
        ("after_ack", sent.message_id),
    ]
    broker.join(record.queue_name, timeout=TIMEOUT_MS)
    assert dead_count(broker, record.queue_name) == 0


def test_a_failing_job_without_the_retries_middleware_is_done(
    broker_kind: BrokerKind,
    server: EmbeddedValkey,
    new_broker: NewBroker,
    start_worker: StartWorker,
) -> None:
    """Dramatiq's documented behaviour: without Retries a failure is marked done."""
    signals = Signals("after_ack", "after_nack")
    broker = new_broker(broker_kind, server.url, middleware=[signals])

    @dramatiq.actor
    def fail() -> None:
        raise RuntimeError("on purpose")

    start_worker(broker)
    sent = fail.send()
    assert signals.seen.next() == ("after_ack", sent.message_id)
    broker.join(fail.queue_name, timeout=TIMEOUT_MS)
    assert dead_count(broker, fail.queue_name) == 0
