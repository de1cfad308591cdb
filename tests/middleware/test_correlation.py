"""One id a chain: who inherits it, who begins a new one, what becomes of a bad one."""

# mypy: allow-untyped-calls
# Dramatiq has no types for its compositions.

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import dramatiq
import pytest
from dramatiq import Actor, group, pipeline
from dramatiq.middleware import CurrentMessage, GroupCallbacks, SkipMessage
from dramatiq.middleware.middleware import Middleware
from dramatiq.rate_limits.backends import RedisBackend as RateLimiterBackend

from broker import StreamsBroker
from middleware.correlation import (
    MOST_CHARACTERS,
    InvalidCorrelationId,
    correlation,
    current_correlation_id,
)
from tests.conftest import StartWorker
from tests.contract.recording import Seen
from tests.waiting import eventually

BAD_IDS: list[Any] = ["", " ", "a\nb", "é", "x" * (MOST_CHARACTERS + 1), 7, ["a"], {"a": 1}]


@pytest.fixture
def seen() -> Seen:
    """The ids under which jobs ran."""
    return Seen()


@pytest.fixture
def note(broker: StreamsBroker, seen: Seen) -> Actor[Any, None]:
    """A job that records its label and the id it runs under."""

    @dramatiq.actor
    def note(label: str = "", result: object = None) -> None:
        seen.add((label, current_correlation_id()))

    return note


def test_a_first_send_begins_a_chain_of_its_own(
    note: Actor[Any, None], seen: Seen, broker: StreamsBroker, start_worker: StartWorker
) -> None:
    start_worker(broker)
    first, second = note.send("first"), note.send("second")
    assert dict(seen.take(2)) == {"first": first.message_id, "second": second.message_id}


def test_a_send_belongs_to_the_callers_chain(
    note: Actor[Any, None], seen: Seen, broker: StreamsBroker, start_worker: StartWorker
) -> None:
    start_worker(broker)
    with correlation("request-1") as id:
        assert id == current_correlation_id() == "request-1"
        note.send("now")
        note.send_with_options(args=("later",), delay=50)
        broker.enqueue_many([note.message("batch")])
        note.send_with_options(args=("own",), correlation_id="its-own")
    assert current_correlation_id() is None
    assert dict(seen.take(4)) == {
        **dict.fromkeys(("now", "later", "batch"), "request-1"),
        "own": "its-own",
    }


def test_chains_nest_and_end_with_their_block(broker: StreamsBroker) -> None:
    with correlation("outer"):
        with correlation() as inner:
            assert inner == current_correlation_id() != "outer"
        assert current_correlation_id() == "outer"


def test_a_bad_id_is_refused_where_it_is_given(
    note: Actor[Any, None], broker: StreamsBroker
) -> None:
    for bad in BAD_IDS:
        with pytest.raises(InvalidCorrelationId, match="correlation_id: must be 1 to 128"):
            note.send_with_options(correlation_id=bad)
        with pytest.raises(InvalidCorrelationId), correlation(bad):
            pass
    assert broker.inspector.queue("default").ready == 0


@pytest.mark.parametrize("kind", ["thread", "asyncio"])
def test_what_a_job_sends_inherits_its_id(
    kind: str,
    note: Actor[Any, None],
    seen: Seen,
    broker: StreamsBroker,
    start_worker: StartWorker,
) -> None:
    @dramatiq.actor
    def thread() -> None:
        note.send("child")

    @dramatiq.actor(actor_name="asyncio")
    async def coroutine() -> None:
        await asyncio.sleep(0)
        await asyncio.gather(asyncio.to_thread(note.send, "child"), asyncio.sleep(0))

    start_worker(broker, threads=1)
    for number in range(3):
        with correlation(f"request-{number}"):
            broker.get_actor(kind).send()
    assert seen.take(3) == [("child", f"request-{number}") for number in range(3)]


def test_jobs_of_asyncio_that_run_at_once_keep_their_ids_apart(
    broker: StreamsBroker, seen: Seen, start_worker: StartWorker
) -> None:
    barrier = asyncio.Barrier(2)

    @dramatiq.actor
    async def meet() -> None:
        before = current_correlation_id()
        await barrier.wait()
        seen.add((before, current_correlation_id()))

    start_worker(broker, threads=2)
    for id in ("a", "b"):
        meet.send_with_options(correlation_id=id)
    assert sorted(seen.take(2)) == [("a", "a"), ("b", "b")]


def test_retries_a_dead_letter_and_its_redrive_stay_in_the_chain(
    broker: StreamsBroker, seen: Seen, start_worker: StartWorker
) -> None:
    @dramatiq.actor(max_retries=1, min_backoff=1, max_backoff=1)
    def fail() -> None:
        seen.add(current_correlation_id())
        raise RuntimeError

    start_worker(broker)
    with correlation("request-1"):
        fail.send()
    (letter,) = eventually(lambda: broker.inspector.dead("default"), bool, what="burial")
    assert letter.message is not None
    assert letter.message.options["correlation_id"] == "request-1"
    broker.inspector.redrive("default")
    assert seen.take(4) == ["request-1"] * 4


@pytest.mark.parametrize("queue", ["default", "notices"])
def test_who_is_told_of_a_death_belongs_to_its_chain(
    broker: StreamsBroker, seen: Seen, start_worker: StartWorker, queue: str
) -> None:
    @dramatiq.actor(queue_name=queue)
    def tell(notice: object) -> None:
        seen.add(current_correlation_id())

    @dramatiq.actor(max_retries=0, on_dead=tell)
    def fail() -> None:
        raise RuntimeError

    start_worker(broker)
    fail.send_with_options(correlation_id="request-1")
    assert seen.next() == "request-1"


def test_the_steps_of_a_pipeline_belong_to_one_chain(
    note: Actor[Any, None], seen: Seen, broker: StreamsBroker, start_worker: StartWorker
) -> None:
    start_worker(broker)
    first = note.message("first")
    pipeline([first, note.message("second"), note.message("third")]).run()
    assert seen.take(3) == [(label, first.message_id) for label in ("first", "second", "third")]


def test_a_group_belongs_to_the_callers_chain_and_with_a_callback_always_to_one(
    note: Actor[Any, None],
    seen: Seen,
    broker: StreamsBroker,
    start_worker: StartWorker,
    namespace: str,
) -> None:
    backend = RateLimiterBackend(client=broker.client, key_prefix=namespace)
    broker.add_middleware(GroupCallbacks(backend))
    start_worker(broker)
    with correlation("request-1"):
        group([note.message("a"), note.message("b")]).run()
    assert sorted(seen.take(2)) == [("a", "request-1"), ("b", "request-1")]

    jobs = group([note.message("a"), note.message("b")])
    jobs.add_completion_callback(note.message("done"))
    jobs.run()
    ran = dict(seen.take(3))
    assert set(ran) == {"a", "b", "done"}
    assert len(set(ran.values())) == 1


def test_a_bad_id_from_elsewhere_is_replaced_for_the_whole_chain(
    note: Actor[Any, None], seen: Seen, broker: StreamsBroker, start_worker: StartWorker
) -> None:
    elsewhere = StreamsBroker(client=broker.client, namespace=broker.namespace, middleware=[])
    start_worker(broker)
    for bad in [*BAD_IDS, None]:
        step = note.message("step").asdict()
        step["options"] = {"correlation_id": bad}
        options = {"correlation_id": bad, "pipe_target": step}
        message = elsewhere.enqueue(note.message("start").copy(options=options))
        assert seen.take(2) == [("start", message.message_id), ("step", message.message_id)]


def test_a_bad_id_from_elsewhere_is_replaced_for_whoever_reads_the_message(
    broker: StreamsBroker, seen: Seen, start_worker: StartWorker
) -> None:
    @dramatiq.actor
    def read() -> None:
        current = CurrentMessage.get_current_message()
        assert current is not None
        seen.add(current.options["correlation_id"])

    elsewhere = StreamsBroker(client=broker.client, namespace=broker.namespace, middleware=[])
    message = elsewhere.enqueue(read.message().copy(options={"correlation_id": "a b"}))
    start_worker(broker)
    assert seen.next() == message.message_id


def test_an_unusable_message_id_names_no_chain(
    note: Actor[Any, None], seen: Seen, broker: StreamsBroker, start_worker: StartWorker
) -> None:
    elsewhere = StreamsBroker(client=broker.client, namespace=broker.namespace, middleware=[])
    elsewhere.enqueue(note.message("odd").copy(message_id="an id\nwith a line's end"))
    start_worker(broker)
    _, id = seen.next()
    assert len(id) == len(str(uuid4()))


def test_a_skipped_job_leaves_no_id_behind(
    broker: StreamsBroker, seen: Seen, start_worker: StartWorker
) -> None:
    class Watch(Middleware):
        """Skips the job; asks for the id once everything below has let go of the message."""

        def before_process_message(self, broker: Any, message: Any) -> None:
            raise SkipMessage

        def before_ack(self, broker: Any, message: Any) -> None:
            seen.add(current_correlation_id())

    @dramatiq.actor
    def never() -> None:
        seen.add("ran")

    broker.add_middleware(Watch())
    start_worker(broker)
    never.send()
    assert seen.next() is None
    assert seen.nothing_more()
