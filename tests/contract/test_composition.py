"""Pipelines and groups."""

# mypy: allow-untyped-calls
# Dramatiq has no types here.

from __future__ import annotations

import time
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker, group, pipeline
from dramatiq.middleware import GroupCallbacks
from dramatiq.rate_limits.backends import RedisBackend as RateLimiterBackend
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend as ResultBackend

from tests.conftest import StartWorker
from tests.contract.brokers import client_of
from tests.contract.recording import Seen
from tests.waiting import PATIENCE_S

TIMEOUT_MS = int(PATIENCE_S * 1000)


def step(actor: Any, *args: object) -> Any:
    """A message that lacks its last argument: the result of the step before."""
    return actor.message(*args)


@pytest.fixture(autouse=True)
def _results(broker: Broker, namespace: str) -> None:
    backend = ResultBackend(client=client_of(broker), namespace=f"{namespace}:results")
    broker.add_middleware(Results(backend=backend))


def test_a_pipeline_feeds_each_result_to_the_next_actor(
    broker: Broker, start_worker: StartWorker
) -> None:
    @dramatiq.actor(queue_name="first", store_results=True)
    def add(x: int, y: int) -> int:
        return x + y

    @dramatiq.actor(queue_name="second", store_results=True)
    def double(x: int) -> int:
        return 2 * x

    start_worker(broker)
    chain = add.message(1, 2) | step(add, 3) | step(double)
    chain.run()
    assert chain.get_result(block=True, timeout=TIMEOUT_MS) == 12
    assert list(chain.get_results()) == [3, 6, 12]
    assert chain.completed
    assert chain.completed_count == 3


def test_pipe_ignore_keeps_the_result_from_the_next_actor(
    broker: Broker, start_worker: StartWorker
) -> None:
    @dramatiq.actor(store_results=True)
    def value(x: int) -> int:
        return x

    start_worker(broker)
    chain = value.message(1) | value.message_with_options(args=(5,), pipe_ignore=True)
    chain.run()
    assert chain.get_result(block=True, timeout=TIMEOUT_MS) == 5


@pytest.mark.parametrize("where", ["run", "first", "second"])
def test_a_pipeline_and_its_steps_can_be_delayed(
    broker: Broker, start_worker: StartWorker, where: str
) -> None:
    @dramatiq.actor(store_results=True)
    def value(x: int) -> int:
        return x

    options: dict[str, dict[str, Any]] = {"first": {}, "second": {}}
    if where != "run":
        options[where] = {"delay": 300}
    start_worker(broker)
    chain = value.message_with_options(args=(1,), **options["first"]) | (
        value.message_with_options(args=(2,), pipe_ignore=True, **options["second"])
    )
    started = time.monotonic()
    chain.run(delay=300 if where == "run" else None)
    assert chain.get_result(block=True, timeout=TIMEOUT_MS) == 2
    assert time.monotonic() - started >= 0.299


def test_a_failed_step_ends_the_pipeline(broker: Broker, start_worker: StartWorker) -> None:
    seen = Seen()

    @dramatiq.actor(max_retries=0)
    def fail() -> None:
        seen.add("failed")
        raise RuntimeError("on purpose")

    @dramatiq.actor
    def after(value: object) -> None:
        seen.add("after")

    start_worker(broker)
    (fail.message() | step(after)).run()
    assert seen.next() == "failed"
    broker.join(fail.queue_name, timeout=TIMEOUT_MS)
    assert seen.nothing_more(0.1)


def test_a_retried_step_continues_the_pipeline_once(
    broker: Broker, start_worker: StartWorker
) -> None:
    seen = Seen()
    attempts: list[int] = []

    @dramatiq.actor(max_retries=1, min_backoff=20)
    def second_time() -> int:
        attempts.append(1)
        if len(attempts) < 2:
            raise RuntimeError("not yet")
        return 7

    @dramatiq.actor
    def after(value: int) -> None:
        seen.add(value)

    start_worker(broker)
    (second_time.message() | step(after)).run()
    assert seen.next() == 7
    broker.join(after.queue_name, timeout=TIMEOUT_MS)
    assert seen.nothing_more(0.1)


def test_a_group_collects_the_results_of_its_members(
    broker: Broker, start_worker: StartWorker
) -> None:
    @dramatiq.actor(store_results=True)
    def square(x: int) -> int:
        return x * x

    start_worker(broker, threads=4)
    members = group(square.message(x) for x in range(10)).run()
    results = list(members.get_results(block=True, timeout=TIMEOUT_MS))
    assert results == [x * x for x in range(10)]
    assert members.completed


def test_a_group_holds_groups_and_pipelines(broker: Broker, start_worker: StartWorker) -> None:
    @dramatiq.actor(store_results=True)
    def add(x: int, y: int) -> int:
        return x + y

    start_worker(broker, threads=4)
    members = group(
        [
            add.message(1, 1),
            group([add.message(2, 2), add.message(3, 3)]),
            pipeline([add.message(4, 4), step(add, 5)]),
        ]
    )
    members.run(delay=20)
    assert list(members.get_results(block=True, timeout=TIMEOUT_MS)) == [2, [4, 6], 13]


def test_a_groups_callback_runs_once_after_its_last_member(
    broker: Broker, start_worker: StartWorker
) -> None:
    broker.add_middleware(GroupCallbacks(RateLimiterBackend(client=client_of(broker))))
    seen = Seen()

    @dramatiq.actor
    def member(x: int) -> int:
        seen.add(x)
        return x

    @dramatiq.actor(queue_name="callbacks")
    def complete(label: str) -> None:
        seen.add(label)

    start_worker(broker, threads=4)
    members = group(
        [
            *(member.message(x) for x in range(5)),
            pipeline([member.message(5), member.message_with_options(args=(6,), pipe_ignore=True)]),
        ]
    )
    members.add_completion_callback(complete.message("complete"))
    members.run()
    *done, last = seen.take(8)
    assert sorted(done) == list(range(7))
    assert last == "complete"
    broker.join(complete.queue_name, timeout=TIMEOUT_MS)
    assert seen.nothing_more(0.1)


def test_a_group_can_be_run_twice(broker: Broker, start_worker: StartWorker) -> None:
    broker.add_middleware(GroupCallbacks(RateLimiterBackend(client=client_of(broker))))
    seen = Seen()

    @dramatiq.actor
    def member() -> None:
        seen.add("member")

    @dramatiq.actor
    def complete() -> None:
        seen.add("complete")

    start_worker(broker)
    members = group([member.message(), member.message()])
    members.add_completion_callback(complete.message())
    for _ in range(2):
        members.run()
        assert seen.take(3) == ["member", "member", "complete"]
        broker.join(complete.queue_name, timeout=TIMEOUT_MS)
