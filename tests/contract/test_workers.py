"""Dramatiq's own Worker on the broker."""

from __future__ import annotations

import threading

import dramatiq
from dramatiq import Broker, Message
from dramatiq.middleware import Middleware

from tests.conftest import StartWorker
from tests.contract.recording import Seen
from tests.waiting import PATIENCE_S, QUIET_S, wait_for

TIMEOUT_MS, QUIET_MS = int(PATIENCE_S * 1000), int(QUIET_S * 1000)


def test_a_worker_takes_only_the_queues_it_was_given(
    broker: Broker, start_worker: StartWorker
) -> None:
    seen = Seen()

    @dramatiq.actor(queue_name="mine")
    def mine() -> None:
        seen.add("mine")

    @dramatiq.actor(queue_name="other")
    def other() -> None:
        seen.add("other")

    other.send()
    mine.send()
    start_worker(broker, queues={"mine"})
    assert seen.next() == "mine"
    other.send_with_options(delay=1)
    mine.send_with_options(delay=1)
    assert seen.next() == "mine"
    assert seen.nothing_more()


def test_an_actor_declared_while_the_worker_runs_is_executed(
    broker: Broker, start_worker: StartWorker
) -> None:
    seen = Seen()
    start_worker(broker)

    @dramatiq.actor(queue_name="late")
    def late(value: int) -> None:
        seen.add(value)

    late.send(1)
    assert seen.next() == 1
    late.send_with_options(args=(2,), delay=1)
    assert seen.next() == 2


def test_a_paused_worker_starts_nothing_until_it_is_resumed(
    broker: Broker, start_worker: StartWorker
) -> None:
    seen = Seen()

    @dramatiq.actor
    def record(value: int) -> None:
        seen.add(value)

    worker = start_worker(broker)
    record.send(1)
    assert seen.next() == 1
    worker.pause()
    record.send(2)
    assert seen.nothing_more()
    worker.resume()
    assert seen.next() == 2


def test_stopping_waits_for_the_job_that_runs(broker: Broker, start_worker: StartWorker) -> None:
    started, finish, finished = threading.Event(), threading.Event(), threading.Event()

    @dramatiq.actor
    def slow() -> None:
        started.set()
        wait_for(finish, "the permission to finish")
        finished.set()

    worker = start_worker(broker, threads=1)
    slow.send()
    wait_for(started, "the job's start")
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    finish.set()
    stopping.join(20)
    assert not stopping.is_alive()
    assert finished.is_set()
    broker.join(slow.queue_name, timeout=5_000)


def test_jobs_that_a_stopped_worker_had_prefetched_run_on_the_next_one_at_once(
    broker: Broker, start_worker: StartWorker
) -> None:
    seen = Seen()
    started, finish = threading.Event(), threading.Event()

    @dramatiq.actor
    def record(value: int) -> None:
        if value == 0:
            started.set()
            wait_for(finish, "the permission to finish")
        seen.add(value)

    for value in range(4):
        record.send(value)
    worker = start_worker(broker, threads=1)
    wait_for(started, "the first job's start")
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    # The worker's flag is down before its thread can come back for the next job.
    stopping.join(0.2)
    assert stopping.is_alive()
    finish.set()
    stopping.join(20)
    assert seen.next() == 0
    start_worker(broker, threads=1)
    assert sorted(seen.take(3)) == [1, 2, 3]
    assert seen.nothing_more()


def test_many_threads_execute_each_message_once(broker: Broker, start_worker: StartWorker) -> None:
    seen = Seen()

    @dramatiq.actor
    def record(value: int) -> None:
        seen.add(value)

    start_worker(broker, threads=8)
    for value in range(300):
        record.send(value)
    assert sorted(seen.take(300)) == list(range(300))
    broker.join(record.queue_name, timeout=20_000)
    assert seen.nothing_more(0.1)


class Declarations(Middleware):
    """Counts declarations of queues."""

    def __init__(self) -> None:
        self.before: list[str] = []
        self.after: list[str] = []

    def before_declare_queue(self, broker: Broker, queue_name: str) -> None:
        self.before.append(queue_name)

    def after_declare_queue(self, broker: Broker, queue_name: str) -> None:
        self.after.append(queue_name)


def test_declaring_a_queue_twice_declares_it_once(broker: Broker) -> None:
    declarations = Declarations()
    broker.add_middleware(declarations)
    broker.declare_queue("letters")
    broker.declare_queue("letters")
    assert declarations.before == declarations.after == ["letters"]


def test_the_declared_queues_are_a_copy(broker: Broker) -> None:
    broker.declare_queue("letters")
    broker.declare_queue("parcels")
    declared = broker.get_declared_queues()
    assert declared == {"letters", "parcels"}
    declared.clear()
    assert broker.get_declared_queues() == {"letters", "parcels"}


def test_a_middleware_added_late_hears_of_the_queues_declared_before(broker: Broker) -> None:
    broker.declare_queue("letters")
    declarations = Declarations()
    broker.add_middleware(declarations)
    assert declarations.after == ["letters"]


def test_messages_are_consumed_and_acknowledged_without_a_worker(broker: Broker) -> None:
    broker.declare_queue("work")
    for number in range(3):
        broker.enqueue(Message("work", "nobody", (number,), {}, {}))
    consumer = broker.consume("work", prefetch=3, timeout=QUIET_MS)
    taken = [next(consumer) for _ in range(3)]
    assert [each.args for each in taken if each is not None] == [(0,), (1,), (2,)]
    first, second, third = taken
    assert first is not None
    assert second is not None
    assert third is not None
    consumer.ack(first)
    consumer.nack(second)
    consumer.requeue([third])
    again = next(consumer)
    assert again is not None
    assert again.args == (2,)
    consumer.ack(again)
    assert next(consumer) is None
    broker.join("work", timeout=TIMEOUT_MS)
    consumer.close()
