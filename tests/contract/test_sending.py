"""Sending, waiting and flushing."""

from __future__ import annotations

import math
import time
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker, Message
from dramatiq.errors import QueueJoinTimeout
from dramatiq.middleware import CurrentMessage

from tests.conftest import StartWorker
from tests.contract.recording import Seen
from tests.waiting import PATIENCE_S

JOIN_MS = int(PATIENCE_S * 1000)


def test_a_sent_message_is_executed_with_its_arguments(
    broker: Broker, start_worker: StartWorker
) -> None:
    seen = Seen()

    @dramatiq.actor
    def record(*args: object, **kwargs: object) -> None:
        seen.add((args, kwargs))

    start_worker(broker)
    record.send(1, "two", three=[3])
    assert seen.next() == ((1, "two"), {"three": [3]})


def test_a_message_sent_before_any_worker_is_executed_later(
    broker: Broker, start_worker: StartWorker
) -> None:
    seen = Seen()

    @dramatiq.actor
    def record(value: int) -> None:
        seen.add(value)

    record.send(7)
    start_worker(broker)
    assert seen.next() == 7


def test_one_thread_executes_a_queue_in_order(broker: Broker, start_worker: StartWorker) -> None:
    seen = Seen()

    @dramatiq.actor
    def record(value: int) -> None:
        seen.add(value)

    for value in range(50):
        record.send(value)
    start_worker(broker, threads=1)
    assert seen.take(50) == list(range(50))


ARGUMENTS: list[Any] = [
    0,
    -1,
    2**53 + 1,
    2**64 - 1,
    2**70,
    -(2**70),
    1.5,
    1e308,
    math.inf,
    -math.inf,
    True,
    None,
    "",
    "nul \x00 in the middle",
    "emoji \U0001f680 and \u202e",
    "a lone surrogate \ud800",
    'quotes " and \\ and </script>',
    [],
    {},
    [[], {}, [[]]],
    {"": {"nested": [None, {}]}},
    {"1": 1, "\x00": "\x00"},
    "x" * 100_000,
]


@pytest.mark.parametrize("delay", [None, 1], ids=["now", "delayed"])
def test_arguments_arrive_equal(
    broker: Broker, start_worker: StartWorker, delay: int | None
) -> None:
    seen = Seen()

    @dramatiq.actor
    def record(*args: object, **kwargs: object) -> None:
        seen.add((args, kwargs))

    for number, value in enumerate(ARGUMENTS):
        options: dict[str, Any] = {
            "args": (number, value, [value]),
            "kwargs": {"key": value},
            "delay": delay,
        }
        record.send_with_options(**options)
    start_worker(broker)
    arrived = {args[0]: (args, kwargs) for args, kwargs in seen.take(len(ARGUMENTS))}
    for number, value in enumerate(ARGUMENTS):
        args, kwargs = arrived[number]
        assert args[1:] == (value, [value])
        assert kwargs == {"key": value}
        assert type(args[1]) is type(value)


def test_nan_arrives_as_nan(broker: Broker, start_worker: StartWorker) -> None:
    seen = Seen()

    @dramatiq.actor
    def record(value: float) -> None:
        seen.add(value)

    record.send(math.nan)
    start_worker(broker, threads=1)
    assert math.isnan(seen.next())


def test_an_argument_that_is_not_json_is_refused_in_the_caller(broker: Broker) -> None:
    @dramatiq.actor
    def record(value: object) -> None:
        raise AssertionError("never runs")

    with pytest.raises(TypeError):
        record.send(object())
    broker.join(record.queue_name, timeout=JOIN_MS)


@pytest.mark.parametrize("delay", [300, timedelta(milliseconds=300)], ids=["ms", "timedelta"])
def test_a_delayed_message_is_not_executed_before_its_time(
    broker: Broker, start_worker: StartWorker, delay: int | timedelta
) -> None:
    seen = Seen()

    @dramatiq.actor
    def record() -> None:
        seen.add(time.time())

    start_worker(broker)
    sent_at = time.time()
    record.send_with_options(delay=delay)
    # Both round to the millisecond.
    assert seen.next() - sent_at >= 0.299


@pytest.mark.parametrize("delay", [0, -5, 0.5, -0.5, -60_000.0])
def test_a_delay_that_is_over_is_no_delay(
    broker: Broker, start_worker: StartWorker, delay: Any
) -> None:
    seen = Seen()

    @dramatiq.actor
    def record() -> None:
        seen.add("done")

    start_worker(broker)
    record.send_with_options(delay=delay)
    assert seen.next() == "done"


def test_a_delay_may_be_a_fraction_in_a_pipeline_too(
    broker: Broker, start_worker: StartWorker
) -> None:
    seen = Seen()

    @dramatiq.actor
    def record(value: str = "") -> str:
        seen.add(value)
        return "given"

    start_worker(broker)
    last = record.message_with_options(delay=10.5)
    (record.message("first") | last).run(delay=1.5)
    assert seen.take(2) == ["first", "given"]


def test_queues_are_independent(broker: Broker, start_worker: StartWorker) -> None:
    seen = Seen()

    @dramatiq.actor(queue_name="letters")
    def letter(value: str) -> None:
        seen.add(value)

    @dramatiq.actor(queue_name="parcels")
    def parcel(value: str) -> None:
        seen.add(value)

    start_worker(broker)
    letter.send("letter")
    parcel.send("parcel")
    assert sorted(seen.take(2)) == ["letter", "parcel"]
    assert broker.get_declared_queues() >= {"letters", "parcels"}


def test_enqueue_returns_the_message_it_stored(broker: Broker) -> None:
    @dramatiq.actor(queue_name="letters")
    def record(value: int) -> None:
        raise AssertionError("never runs")

    message = record.message(1)
    for returned in (broker.enqueue(message), broker.enqueue(record.message(1), delay=60_000)):
        assert isinstance(returned, Message)
        assert returned.actor_name == "record"
        assert returned.args == (1,)
    assert broker.enqueue(message.copy()).message_id == message.message_id


def test_options_timestamp_and_id_arrive_unchanged(
    broker: Broker, start_worker: StartWorker
) -> None:
    broker.add_middleware(CurrentMessage())
    seen = Seen()

    @dramatiq.actor
    def record() -> None:
        current = CurrentMessage.get_current_message()
        assert current is not None
        seen.add((current.message_id, current.message_timestamp, dict(current.options)))

    options: dict[str, Any] = {
        "tenant": "t\u00e9st",
        "tags": ["a", {"b": None}],
        "zero": 0,
        "big": 2**60,
    }
    message = record.message_with_options(**options)
    broker.enqueue(message)
    start_worker(broker)
    message_id, timestamp, arrived = seen.next()
    assert (message_id, timestamp) == (message.message_id, message.message_timestamp)
    assert {name: arrived.get(name) for name in options} == options


def test_join_waits_for_ready_running_and_delayed_messages(
    broker: Broker, start_worker: StartWorker
) -> None:
    seen = Seen()

    @dramatiq.actor
    def record(value: str) -> None:
        seen.add(value)

    start_worker(broker)
    record.send_with_options(args=("delayed",), delay=300)
    record.send("now")
    broker.join(record.queue_name, timeout=JOIN_MS)
    assert seen.take(2) == ["now", "delayed"]


def test_join_gives_up_after_its_timeout(broker: Broker) -> None:
    @dramatiq.actor
    def record() -> None:
        raise AssertionError("never runs")

    broker.join(record.queue_name, timeout=JOIN_MS)
    record.send()
    with pytest.raises(QueueJoinTimeout):
        broker.join(record.queue_name, timeout=150)


def test_join_counts_a_delayed_message(broker: Broker) -> None:
    @dramatiq.actor
    def record() -> None:
        raise AssertionError("never runs")

    record.send_with_options(delay=60_000)
    with pytest.raises(QueueJoinTimeout):
        broker.join(record.queue_name, timeout=150)


def test_flush_drops_ready_and_delayed_messages_of_one_queue(
    broker: Broker, start_worker: StartWorker
) -> None:
    seen = Seen()

    @dramatiq.actor(queue_name="flushed")
    def flushed(value: str) -> None:
        seen.add(value)

    @dramatiq.actor(queue_name="kept")
    def kept(value: str) -> None:
        seen.add(value)

    for _ in range(5):
        flushed.send("dropped")
        flushed.send_with_options(args=("dropped",), delay=10)
    kept.send("kept")
    broker.flush("flushed")
    broker.join("flushed", timeout=JOIN_MS)
    start_worker(broker)
    flushed.send("after")
    flushed.send_with_options(args=("after",), delay=50)
    assert sorted(seen.take(3)) == ["after", "after", "kept"]
    assert seen.nothing_more()


def test_flush_all_drops_the_messages_of_every_queue(
    broker: Broker, start_worker: StartWorker
) -> None:
    seen = Seen()

    @dramatiq.actor(queue_name="one")
    def one(value: str) -> None:
        seen.add(value)

    @dramatiq.actor(queue_name="two")
    def two(value: str) -> None:
        seen.add(value)

    one.send("dropped")
    two.send_with_options(args=("dropped",), delay=10)
    broker.flush_all()
    for queue_name in ("one", "two"):
        broker.join(queue_name, timeout=JOIN_MS)
    start_worker(broker)
    one.send("after")
    assert seen.next() == "after"
    assert seen.nothing_more()


def test_a_finished_message_can_be_sent_again(broker: Broker, start_worker: StartWorker) -> None:
    """Dramatiq allows a message, a pipeline or a group to be run twice."""
    seen = Seen()

    @dramatiq.actor
    def record(value: int) -> None:
        seen.add(value)

    start_worker(broker)
    message = record.message(1)
    for _ in range(2):
        broker.enqueue(message)
        assert seen.next() == 1
        broker.join(record.queue_name, timeout=JOIN_MS)
