"""What becomes of deliveries that are sent on, acknowledged by hand, or interrupted at the last."""

from __future__ import annotations

import threading
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Broker, Message, MessageProxy
from dramatiq.common import current_millis
from dramatiq.errors import ConnectionClosed
from dramatiq.middleware import Middleware, Retries, SkipMessage
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker import StreamsBroker
from broker.delivery import Delivery
from broker.embedded import EmbeddedValkey
from tests.conftest import NewBroker, NewServer, StartWorker
from tests.contract.recording import Seen
from tests.waiting import PATIENCE_S, QUIET_S, eventually, wait_for

TIMEOUT_MS, QUIET_MS = int(PATIENCE_S * 1000), int(QUIET_S * 1000)


@pytest.fixture
def streams(server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    made = new_broker("streams", server.url)
    assert isinstance(made, StreamsBroker)
    made.declare_queue("work")
    return made


def message(*args: object) -> Message[None]:
    return Message("work", "record", args, {}, {})


def taken(streams: StreamsBroker) -> tuple[Any, MessageProxy]:
    """A consumer and what it has taken by hand."""
    consumer = streams.consume("work", timeout=QUIET_MS)
    found = next(consumer)
    assert found is not None
    return consumer, found


def test_a_delivery_is_moved_to_another_broker(streams: StreamsBroker) -> None:
    other = StreamsBroker(client=streams.client, namespace=f"{streams.namespace}-other")
    streams.enqueue(message(1))
    consumer, delivery = taken(streams)
    other.enqueue(delivery)  # type: ignore[arg-type]  # as Dramatiq's Retries does
    consumer.ack(delivery)
    assert (streams.inspector.size("work"), other.inspector.size("work")) == (0, 1)
    other.flush("work")


def test_a_delivery_that_was_acknowledged_can_be_sent_again(streams: StreamsBroker) -> None:
    streams.enqueue(message(1))
    consumer, delivery = taken(streams)
    consumer.ack(delivery)
    streams.enqueue(delivery)  # type: ignore[arg-type]  # as Dramatiq's Retries does
    _, again = taken(streams)
    assert again.args == (1,)


class SendsAgain(Middleware):
    """Puts a job off before it runs, in the way that Dramatiq's own middleware rejects one."""

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        if "second" not in message.options:
            message.options["second"] = True
            broker.enqueue(message, delay=1)  # type: ignore[arg-type]  # as Retries does
            message.fail()
            raise SkipMessage


def test_a_job_that_was_enqueued_and_rejected_runs_again(
    streams: StreamsBroker, start_worker: StartWorker
) -> None:
    seen = Seen()
    streams.add_middleware(SendsAgain())
    dramatiq.actor(queue_name="work", actor_name="record")(seen.add)
    streams.enqueue(message("job"))
    start_worker(streams)
    assert seen.next() == "job"
    streams.join("work", timeout=TIMEOUT_MS)
    assert streams.inspector.dead("work") == []


def test_an_eta_that_the_sender_sets_is_kept_to(
    streams: StreamsBroker, start_worker: StartWorker
) -> None:
    seen = Seen()
    record = dramatiq.actor(queue_name="work", actor_name="record")(seen.add)
    eta = current_millis() + 300
    record.send_with_options(args=("later",), eta=eta)
    streams.enqueue_many([message("past").copy(options={"eta": 1}), message("now")])
    assert streams.inspector.queue("work").scheduled == 1
    start_worker(streams)
    assert sorted(seen.take(2)) == ["now", "past"]
    assert seen.next() == "later"
    assert current_millis() >= eta


def test_messages_are_consumed_by_hand_after_a_worker(
    streams: StreamsBroker, start_worker: StartWorker
) -> None:
    start_worker(streams).stop()
    streams.enqueue(message(1))
    consumer, delivery = taken(streams)
    consumer.ack(delivery)
    assert streams.inspector.size("work") == 0


def test_a_consumer_that_does_not_wait_returns_at_once(streams: StreamsBroker) -> None:
    consumer = streams.consume("work", timeout=0)
    assert next(consumer) is None
    streams.enqueue(message(1))
    assert next(consumer) is not None


def test_an_acknowledgement_that_failed_can_be_repeated(
    own_server: NewServer, namespace: str
) -> None:
    server = own_server(appendonly=True)
    once = redis.Redis.from_url(server.url, retry=Retry(NoBackoff(), 0))
    streams = StreamsBroker(client=once, namespace=namespace)
    streams.enqueue(message(1))
    consumer, delivery = taken(streams)
    server.stop()
    with pytest.raises(ConnectionClosed):
        consumer.ack(delivery)
    server.start()
    consumer.ack(delivery)
    assert streams.inspector.size("work") == 0


def test_no_worker_of_a_process_takes_what_another_one_of_it_runs(
    server: EmbeddedValkey, new_broker: NewBroker, start_worker: StartWorker
) -> None:
    seen, finish = Seen(), threading.Event()

    def hold(value: str) -> None:
        seen.add(value)
        wait_for(finish, "the test to go on")

    brokers = [new_broker("streams", server.url) for _ in range(2)]
    for each in brokers:
        dramatiq.actor(queue_name="work", broker=each, actor_name="record")(hold)
    running, idle = brokers
    start_worker(running, threads=1)
    running.enqueue(message("job"))
    assert seen.next() == "job"
    other = dramatiq.actor(queue_name="other", broker=idle, actor_name="other")(seen.add)
    start_worker(idle).stop()
    worker = start_worker(idle)
    assert isinstance(idle, StreamsBroker)
    assert idle.worker._threads is not None
    keeper = idle.worker._threads.keeper  # nothing public tells that it has looked
    eventually(lambda: keeper._released_for, lambda queues: "work" in queues)
    other.send("looked")
    assert seen.next() == "looked"
    finish.set()
    worker.stop()


class Interrupted:
    """A job whose only attempt a shutdown interrupts, and who is told that it is exhausted."""

    def __init__(self) -> None:
        self.seen = Seen()
        self.told = Seen()
        self.begun = threading.Event()

    def run(self) -> None:
        self.seen.add("run")
        if not self.begun.is_set():
            self.begun.set()
            while True:
                threading.Event().wait(0.01)  # Dramatiq interrupts between two steps of Python


def test_a_shutdown_during_the_last_attempt_tells_nobody_that_it_is_over(
    streams: StreamsBroker, start_worker: StartWorker
) -> None:
    job = Interrupted()
    tell = dramatiq.actor(queue_name="told", actor_name="tell")(lambda *_: job.told.add("over"))
    run = dramatiq.actor(
        queue_name="work",
        max_retries=0,
        notify_shutdown=True,
        on_retry_exhausted=tell.actor_name,
    )(job.run)
    run.send()
    worker = start_worker(streams)
    wait_for(job.begun, "the job")
    worker.stop()
    start_worker(streams)
    assert job.seen.take(2) == ["run", "run"]
    streams.join("work", timeout=TIMEOUT_MS)
    streams.join("told", timeout=TIMEOUT_MS)
    assert job.told.nothing_more()


class Unpacks(Middleware):
    """Puts another message into the proxy."""

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        message._message = message._message.copy(kwargs={"value": "unpacked"})


def test_retries_are_counted_where_a_middleware_replaces_the_message(
    streams: StreamsBroker, start_worker: StartWorker
) -> None:
    seen = Seen()
    streams.add_middleware(Unpacks())

    @dramatiq.actor(queue_name="work", max_retries=2, min_backoff=1, max_backoff=1)
    def fail(value: str) -> None:
        seen.add(value)
        raise ValueError("on purpose")

    fail.send(value="packed")
    start_worker(streams)
    (letter,) = eventually(lambda: streams.inspector.dead("work"), bool, what="the burial")
    assert letter.reason == "retries_exhausted"
    assert seen.take(3) == ["unpacked"] * 3


def test_a_job_of_a_priority_that_is_none_any_more_is_retried(
    server: EmbeddedValkey, new_broker: NewBroker, start_worker: StartWorker
) -> None:
    before = new_broker("streams", server.url)
    before.enqueue(message("job").copy(options={"broker_priority": 9}), delay=1)
    streams = new_broker("streams", server.url, max_priority=3)
    assert isinstance(streams, StreamsBroker)

    @dramatiq.actor(
        queue_name="work", actor_name="record", max_retries=1, min_backoff=1, max_backoff=1
    )
    def fail(value: str) -> None:
        raise ValueError("on purpose")

    start_worker(streams)
    (letter,) = eventually(lambda: streams.inspector.dead("work"), bool, what="the burial")
    assert (letter.reason, letter.error) == ("retries_exhausted", "ValueError: on purpose")


class SendsCopies(Retries):
    """Retries by a copy, the first one of which is too large."""

    tried = False

    def after_process_message(
        self, broker: Broker, message: MessageProxy, *, result: Any = None, exception: Any = None
    ) -> None:
        if exception is not None:
            why, self.tried = "" if self.tried else "x" * 20_000, True
            assert isinstance(message, Delivery)
            broker.enqueue(message.message.copy(options={"why": why}), delay=1)


def test_a_job_whose_copy_could_not_be_sent_is_not_done(
    server: EmbeddedValkey, new_broker: NewBroker, start_worker: StartWorker
) -> None:
    streams = new_broker(
        "streams",
        server.url,
        middleware=[SendsCopies()],
        max_message_bytes=10_000,
        heartbeat_timeout=600,
    )
    seen, failures = Seen(), iter(range(2))

    @dramatiq.actor(queue_name="work", actor_name="record")
    def fail_twice(value: str) -> None:
        seen.add(value)
        if next(failures, None) is not None:
            raise ValueError("on purpose")

    fail_twice.send("job")
    start_worker(streams)
    assert seen.take(3) == ["job"] * 3
    streams.join("work", timeout=TIMEOUT_MS)
