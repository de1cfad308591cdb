"""Another queue's dead letters take an actor's dead, and give them back."""

from __future__ import annotations

from typing import Any

import dramatiq
import pytest

from broker import DeadRetention, InvalidActorOption, StreamsBroker
from broker.embedded import EmbeddedValkey
from broker.outcome import Bury
from broker.settlement import Settlement
from tests.conftest import NewBroker, StartWorker
from tests.contract.recording import Seen
from tests.waiting import eventually

QUEUE, GRAVEYARD = "work", "graveyard"


@pytest.fixture
def streams(valkey_server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    made = new_broker("streams", valkey_server.url, max_deliveries=1, heartbeat_timeout=300)
    assert isinstance(made, StreamsBroker)
    return made


@pytest.fixture
def seen() -> Seen:
    return Seen()


def failing(seen: Seen, **options: Any) -> dramatiq.Actor[..., None]:
    @dramatiq.actor(queue_name=QUEUE, max_retries=0, dead_queue=GRAVEYARD, **options)
    def fail(value: int) -> None:
        seen.add(value)
        raise LookupError("no such user")

    return fail


def dead(streams: StreamsBroker) -> tuple[int, int]:
    return streams.inspector.queue(QUEUE).dead, streams.inspector.queue(GRAVEYARD).dead


def until_moved(streams: StreamsBroker, count: int = 1) -> None:
    eventually(lambda: dead(streams), lambda found: found == (0, count), what="the move")


def test_the_dead_of_an_actor_go_to_another_queues_dead_letters(
    streams: StreamsBroker, start_worker: StartWorker, seen: Seen
) -> None:
    sent = failing(seen).send(7)
    start_worker(streams)
    until_moved(streams)
    (letter,) = streams.inspector.dead(GRAVEYARD)
    assert (letter.id, letter.queue, letter.reason) == (
        sent.message_id,
        QUEUE,
        "retries_exhausted",
    )
    assert letter.message is not None
    assert (letter.message.queue_name, letter.message.args) == (QUEUE, (7,))
    assert GRAVEYARD in streams.inspector.queues()


def test_a_redrive_brings_them_back_to_the_queue_they_belong_to(
    streams: StreamsBroker, start_worker: StartWorker, seen: Seen
) -> None:
    failing(seen).send(7)
    start_worker(streams)
    assert seen.next() == 7
    until_moved(streams)
    assert streams.inspector.redrive(GRAVEYARD) == 1
    assert seen.next() == 7
    until_moved(streams)
    (letter,) = streams.inspector.dead(GRAVEYARD)
    assert letter.redrives == 1


def test_what_kills_its_workers_goes_there_as_well(
    streams: StreamsBroker, start_worker: StartWorker, seen: Seen
) -> None:
    failing(seen).send(7)
    streams.commands.fetch(QUEUE, "gone", 1, lowest_first=False, suspects=0, signals=())
    start_worker(streams)
    until_moved(streams)
    (letter,) = streams.inspector.dead(GRAVEYARD)
    assert letter.reason == "max_deliveries"
    assert seen.nothing_more(0)


def buried_by_one_that_died_then(streams: StreamsBroker, seen: Seen) -> str:
    """The settlement was written, and nobody lives who would deliver what it asks for."""
    sent = failing(seen).send(7)
    fetched = streams.commands.fetch(QUEUE, "c", 1, lowest_first=False, suspects=0, signals=())
    bury = Bury("rejected", dead_queue=GRAVEYARD)
    (handed,) = fetched.deliveries
    streams.commands.settle(QUEUE, [Settlement(handed.lease, sent.message_id, "", bury)])
    assert dead(streams) == (1, 0)
    return sent.message_id


def test_a_move_that_its_worker_did_not_live_to_make_is_made_by_another(
    streams: StreamsBroker, start_worker: StartWorker, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    buried_by_one_that_died_then(streams, seen)
    monkeypatch.setattr("broker.courier.ABANDONED_AFTER_MS", 0)
    start_worker(streams)
    until_moved(streams)


def test_a_move_that_its_worker_did_not_live_to_finish_is_made_once(
    streams: StreamsBroker, start_worker: StartWorker, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    message_id = buried_by_one_that_died_then(streams, seen)
    here, there = streams.commands.keys(QUEUE), streams.commands.keys(GRAVEYARD)
    letter = streams.client.hget(here.dead_messages, message_id)
    streams.flows.move_letter(QUEUE, GRAVEYARD, message_id.encode())
    streams.client.hset(here.dead_messages, message_id, letter)  # as before it was dropped
    died_at: Any = streams.client.zscore(there.dead, message_id)
    streams.client.zadd(here.dead, {message_id: died_at})
    assert dead(streams) == (1, 1)
    monkeypatch.setattr("broker.courier.ABANDONED_AFTER_MS", 0)
    start_worker(streams)
    until_moved(streams)


def test_a_letter_that_was_redriven_before_its_move_stays_alive(
    streams: StreamsBroker, start_worker: StartWorker, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    buried_by_one_that_died_then(streams, seen)
    streams.inspector.redrive(QUEUE)
    monkeypatch.setattr("broker.courier.ABANDONED_AFTER_MS", 0)
    start_worker(streams)
    assert seen.next() == 7
    until_moved(streams)
    assert seen.nothing_more(0)


def test_workers_keep_the_other_queues_dead_letters_within_bounds(
    valkey_server: EmbeddedValkey, new_broker: NewBroker, start_worker: StartWorker, seen: Seen
) -> None:
    streams = new_broker(
        *("streams", valkey_server.url),
        heartbeat_timeout=300,
        dead_letters={GRAVEYARD: DeadRetention(60_000, 1)},
    )
    assert isinstance(streams, StreamsBroker)
    fail = failing(seen)
    for value in range(3):
        fail.send(value)
    start_worker(streams)
    seen.take(3)
    until_moved(streams)


@pytest.mark.parametrize("wrong", ["", "a b", 3, "{work}"], ids=repr)
def test_what_is_no_queues_name_is_refused_when_declared(
    streams: StreamsBroker, wrong: object
) -> None:
    with pytest.raises(InvalidActorOption, match="dead_queue"):
        dramatiq.actor(queue_name=QUEUE, dead_queue=wrong)(print)
