"""An actor is told of another one's dead, in the step that buries them."""

from __future__ import annotations

from typing import Any

import dramatiq
import pytest
from dramatiq import Message

from broker import InvalidActorOption, StreamsBroker
from broker.embedded import EmbeddedValkey
from tests.conftest import NewBroker, StartWorker
from tests.contract.recording import Seen
from tests.waiting import eventually

QUEUE = "work"


@pytest.fixture
def streams(valkey_server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    made = new_broker("streams", valkey_server.url, max_deliveries=1, heartbeat_timeout=300)
    assert isinstance(made, StreamsBroker)
    return made


@pytest.fixture
def seen() -> Seen:
    return Seen()


def told_in(queue: str, seen: Seen) -> dramatiq.Actor[..., None]:
    @dramatiq.actor(queue_name=queue)
    def tell(notice: dict[str, Any]) -> None:
        seen.add(notice)

    return tell


def failing(**options: Any) -> dramatiq.Actor[[], None]:
    @dramatiq.actor(queue_name=QUEUE, max_retries=0, **options)
    def fail() -> None:
        raise LookupError("no such user")

    return fail


def at_rest(streams: StreamsBroker, *queues: str) -> None:
    for queue in queues:
        streams.join(queue, timeout=20_000)


@pytest.mark.parametrize("queue", [QUEUE, "notices"], ids=["same queue", "its own queue"])
@pytest.mark.parametrize("by_name", [False, True], ids=["actor", "name"])
def test_an_actor_is_told_of_a_death(
    streams: StreamsBroker, start_worker: StartWorker, seen: Seen, queue: str, by_name: bool
) -> None:
    tell = told_in(queue, seen)
    sent = failing(on_dead=tell.actor_name if by_name else tell).send()
    start_worker(streams)
    assert seen.next() == {
        "id": sent.message_id,
        "queue": QUEUE,
        "actor": "fail",
        "reason": "retries_exhausted",
        "error_type": "LookupError",
    }
    at_rest(streams, QUEUE, queue)
    assert seen.nothing_more(0)
    assert [letter.id for letter in streams.inspector.dead(QUEUE)] == [sent.message_id]


def test_the_notice_is_there_before_anybody_could_send_it(
    streams: StreamsBroker, start_worker: StartWorker, seen: Seen
) -> None:
    failing(on_dead=told_in("notices", seen)).send()
    worker = start_worker(streams, queues={QUEUE})
    eventually(lambda: streams.inspector.queue(QUEUE).dead, lambda dead: dead == 1, what="a death")
    worker.stop()
    waiting = streams.inspector.size(QUEUE) + streams.inspector.size("notices")
    assert waiting == 1
    start_worker(streams)
    assert seen.next()["actor"] == "fail"
    assert seen.nothing_more(0.1)


@pytest.mark.parametrize("queue", [QUEUE, "notices"], ids=["same queue", "its own queue"])
def test_an_actor_is_told_of_what_kills_its_workers(
    streams: StreamsBroker, start_worker: StartWorker, seen: Seen, queue: str
) -> None:
    sent = failing(on_dead=told_in(queue, seen)).message()
    streams.enqueue(sent)
    streams.commands.fetch(QUEUE, "gone", 1, lowest_first=False, suspects=0, signals=())
    start_worker(streams)
    notice = seen.next()
    assert (notice["id"], notice["reason"]) == (sent.message_id, "max_deliveries")
    (letter,) = streams.inspector.dead(QUEUE)
    assert letter.error == "delivered 1 times and never settled: it may kill its worker"
    assert [attempt.worker for attempt in letter.attempts] == ["gone"]
    record = streams.jobs.get(sent.message_id)
    assert record is not None
    assert record.state.value == "dead"


def test_an_actor_is_told_of_what_cannot_be_read(
    streams: StreamsBroker, start_worker: StartWorker, seen: Seen
) -> None:
    failing(on_dead=told_in(QUEUE, seen))
    streams.client.xadd(
        streams.commands.keys(QUEUE).ready[0], {"id": "x", "actor": "fail", "args": "["}
    )
    start_worker(streams)
    assert seen.next() == {
        "id": "x",
        "queue": QUEUE,
        "actor": "fail",
        "reason": "undecodable",
        "error_type": "DecodeError",
    }


def test_each_death_of_a_message_is_told(
    streams: StreamsBroker, start_worker: StartWorker, seen: Seen
) -> None:
    sent = failing(on_dead=told_in("notices", seen)).send()
    start_worker(streams)
    assert seen.next()["id"] == sent.message_id
    eventually(lambda: streams.inspector.redrive(QUEUE), lambda moved: moved == 1, what="a redrive")
    assert seen.next()["id"] == sent.message_id
    assert seen.nothing_more(0.1)


def test_a_notice_for_an_actor_that_nobody_knows_waits_for_it(
    valkey_server: EmbeddedValkey, new_broker: NewBroker, start_worker: StartWorker, seen: Seen
) -> None:
    streams = new_broker("streams", valkey_server.url)
    assert isinstance(streams, StreamsBroker)
    failing(on_dead="tell").send()
    start_worker(streams)
    scheduled = streams.commands.keys(QUEUE).scheduled
    eventually(lambda: streams.client.zcard(scheduled), lambda count: count == 1, what="a retry")
    told_in(QUEUE, seen)
    assert seen.next()["reason"] == "retries_exhausted"


def test_a_notice_that_cannot_be_written_holds_up_no_burial(
    streams: StreamsBroker, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    failing(on_dead=told_in(QUEUE, seen)).send()
    encode = streams.codec.encode

    def refuse(message: Message[Any]) -> Any:
        if message.actor_name == "tell":
            raise ValueError("no")
        return encode(message)

    monkeypatch.setattr(streams.codec, "encode", refuse)
    start_worker(streams)
    eventually(lambda: streams.inspector.queue(QUEUE).dead, lambda dead: dead == 1, what="a death")
    assert seen.nothing_more(0)


@pytest.mark.parametrize("wrong", ["", 3, len], ids=repr)
def test_what_is_no_actor_is_refused_when_declared(streams: StreamsBroker, wrong: object) -> None:
    with pytest.raises(InvalidActorOption, match="on_dead"):
        failing(on_dead=wrong)
