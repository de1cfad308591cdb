"""Failing jobs: retries, their limits, and the callbacks at the end."""

from __future__ import annotations

import time
from typing import Any

import dramatiq
from dramatiq import Broker
from dramatiq.middleware import CurrentMessage

from tests.conftest import StartWorker
from tests.contract.brokers import dead_count
from tests.contract.recording import Seen
from tests.waiting import PATIENCE_S, eventually

TIMEOUT_MS = int(PATIENCE_S * 1000)


def is_dead(broker: Broker, queue_name: str, count: int = 1) -> None:
    """Wait until the queue is empty, then it has so many dead letters."""
    broker.join(queue_name, timeout=TIMEOUT_MS)
    eventually(lambda: dead_count(broker, queue_name), lambda n: n == count, what="dead letters")


def test_a_failing_job_is_tried_again_until_its_retries_are_used_up(
    broker: Broker, start_worker: StartWorker
) -> None:
    broker.add_middleware(CurrentMessage())
    seen = Seen()

    @dramatiq.actor(max_retries=2, min_backoff=20, max_backoff=20)
    def fail() -> None:
        current = CurrentMessage.get_current_message()
        assert current is not None
        seen.add((current.message_id, current.options.get("retries", 0)))
        raise RuntimeError("on purpose")

    start_worker(broker)
    message = fail.send()
    assert seen.take(3) == [(message.message_id, retries) for retries in (0, 1, 2)]
    is_dead(broker, fail.queue_name)
    assert seen.nothing_more(0.1)


def test_a_job_that_succeeds_on_a_retry_is_done(broker: Broker, start_worker: StartWorker) -> None:
    seen = Seen()
    attempts: list[int] = []

    @dramatiq.actor(max_retries=5, min_backoff=20, max_backoff=20)
    def second_time() -> None:
        attempts.append(1)
        if len(attempts) < 2:
            raise RuntimeError("not yet")
        seen.add("done")

    start_worker(broker)
    second_time.send()
    assert seen.next() == "done"
    broker.join(second_time.queue_name, timeout=TIMEOUT_MS)
    assert len(attempts) == 2
    assert dead_count(broker, second_time.queue_name) == 0


def test_retry_options_of_a_message_go_before_those_of_its_actor(
    broker: Broker, start_worker: StartWorker
) -> None:
    seen = Seen()

    @dramatiq.actor(max_retries=50)
    def fail() -> None:
        seen.add("tried")
        raise RuntimeError("on purpose")

    start_worker(broker)
    fail.send_with_options(max_retries=1, min_backoff=20)
    assert seen.take(2) == ["tried", "tried"]
    is_dead(broker, fail.queue_name)
    assert seen.nothing_more(0.1)


def test_an_expected_exception_is_not_retried(broker: Broker, start_worker: StartWorker) -> None:
    seen = Seen()

    @dramatiq.actor(throws=(LookupError,), min_backoff=10)
    def fail() -> None:
        seen.add("tried")
        raise KeyError("expected")

    start_worker(broker)
    fail.send()
    assert seen.next() == "tried"
    is_dead(broker, fail.queue_name)
    assert seen.nothing_more(0.1)


def test_a_job_says_itself_when_it_is_to_be_retried(
    broker: Broker, start_worker: StartWorker
) -> None:
    seen = Seen()
    attempts: list[int] = []

    @dramatiq.actor
    def later() -> None:
        seen.add(time.time())
        attempts.append(1)
        if len(attempts) == 1:
            raise dramatiq.Retry("later", delay=300)

    start_worker(broker)
    later.send()
    first, second = seen.take(2)
    assert second - first >= 0.299


def test_a_retry_with_no_delay_runs_at_once(broker: Broker, start_worker: StartWorker) -> None:
    seen = Seen()
    attempts: list[int] = []

    @dramatiq.actor
    def again() -> None:
        attempts.append(1)
        seen.add(len(attempts))
        if len(attempts) < 3:
            raise dramatiq.Retry(delay=0)

    start_worker(broker)
    again.send()
    assert seen.take(3) == [1, 2, 3]


def test_the_backoff_is_waited_for(broker: Broker, start_worker: StartWorker) -> None:
    seen = Seen()

    @dramatiq.actor(max_retries=1, min_backoff=600, max_backoff=600)
    def fail() -> None:
        seen.add(time.time())
        raise RuntimeError("on purpose")

    start_worker(broker)
    fail.send()
    first, second = seen.take(2)
    # Dramatiq's jitter takes off up to half.
    assert second - first >= 0.299


def test_retry_when_decides(broker: Broker, start_worker: StartWorker) -> None:
    seen = Seen()

    def twice(retries: int, exception: BaseException) -> bool:
        seen.add((retries, str(exception)))
        return retries < 1

    @dramatiq.actor(retry_when=twice, min_backoff=20, max_backoff=20)
    def fail() -> None:
        raise RuntimeError("reason")

    start_worker(broker)
    fail.send()
    assert seen.take(2) == [(0, "reason"), (1, "reason")]
    is_dead(broker, fail.queue_name)
    assert seen.nothing_more(0.1)


def test_the_actor_for_exhausted_retries_gets_the_message(
    broker: Broker, start_worker: StartWorker
) -> None:
    seen = Seen()

    @dramatiq.actor(queue_name="exhausted")
    def exhausted(message: dict[str, Any], retries: dict[str, int]) -> None:
        seen.add((message, retries))

    @dramatiq.actor(max_retries=1, min_backoff=20, on_retry_exhausted="exhausted")
    def fail(value: int) -> None:
        raise RuntimeError("on purpose")

    start_worker(broker)
    sent = fail.send(5)
    message, retries = seen.next()
    assert message["message_id"] == sent.message_id
    assert message["actor_name"] == "fail"
    assert message["args"] == [5]
    assert "RuntimeError: on purpose" in message["options"]["traceback"]
    assert retries == {"retries": 1, "max_retries": 1}


def test_callbacks_hear_of_success_and_failure(broker: Broker, start_worker: StartWorker) -> None:
    seen = Seen()

    @dramatiq.actor
    def succeeded(message: dict[str, Any], result: object) -> None:
        seen.add(("succeeded", message["message_id"], result))

    @dramatiq.actor
    def failed(message: dict[str, Any], exception: dict[str, str]) -> None:
        seen.add(("failed", message["message_id"], exception))

    @dramatiq.actor(max_retries=0)
    def halve(value: int) -> int:
        if value % 2:
            raise ValueError("odd")
        return value // 2

    start_worker(broker)
    options: dict[str, Any] = {"on_success": succeeded, "on_failure": failed}
    even = halve.send_with_options(args=(4,), **options)
    assert seen.next() == ("succeeded", even.message_id, 2)
    odd = halve.send_with_options(args=(3,), **options)
    error = {"type": "ValueError", "message": "odd"}
    assert seen.next() == ("failed", odd.message_id, error)


def test_an_actor_nobody_knows_does_not_stop_the_queue(
    broker: Broker, start_worker: StartWorker
) -> None:
    seen = Seen()

    @dramatiq.actor
    def known(value: int) -> None:
        seen.add(value)

    broker.enqueue(known.message(0).copy(actor_name="nobody_knows"))
    known.send(1)
    start_worker(broker, threads=1)
    assert seen.next() == 1
