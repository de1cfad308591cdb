"""Operators go through dead letters: pages, groups, redrives by filter and at a rate."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import dramatiq
import msgspec
import pytest
from dramatiq import Message
from dramatiq.encoder import Encoder
from dramatiq.message import get_encoder, set_encoder

from broker import InvalidOption, NotRedriven, StreamsBroker
from broker.dead_filter import DeadFilter
from broker.dead_letters import DeadGroup
from broker.embedded import EmbeddedValkey
from broker.entry import encode
from broker.letter_commands import Redriven
from broker.new_message import NewMessage
from broker.outcome import Bury
from broker.retention import DeadRetention
from broker.settlement import Settlement
from tests.conftest import NewBroker, StartWorker
from tests.waiting import eventually

QUEUE = "work"


@pytest.fixture
def streams(valkey_server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    made = new_broker("streams", valkey_server.url)
    assert isinstance(made, StreamsBroker)
    return made


class Msgpack(Encoder):
    """An encoding of the application's own."""

    def encode(self, data: dict[str, Any]) -> bytes:
        return msgspec.msgpack.encode(data)

    def decode(self, data: bytes) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.msgpack.decode(data)
        return found


def bury(
    streams: StreamsBroker,
    id: str,
    reason: str = "retries_exhausted",
    *,
    actor: str = "job",
    error: str = "",
    age_ms: int = 0,
    **options: Any,
) -> None:
    message: Message[None] = Message(QUEUE, actor, ("one",), {}, options, id)
    commands = streams.commands
    commands.enqueue(QUEUE, id, [NewMessage(id, "act", 0, None, False, True, encode(message))])
    die(streams, id, Bury(reason, error, actor, error.partition(":")[0]))
    if age_ms:
        key = commands.keys(QUEUE).dead
        streams.client.zadd(key, {id: int(time.time() * 1000) - age_ms})


def die(streams: StreamsBroker, id: str, outcome: Bury | None = None) -> None:
    fetched = streams.commands.fetch(QUEUE, "c", 10, lowest_first=False, suspects=0, signals=())
    (handed,) = fetched.deliveries
    streams.commands.settle(QUEUE, [Settlement(handed.lease, id, "", outcome or Bury("rejected"))])


def ready(streams: StreamsBroker) -> dict[str, dict[bytes, bytes]]:
    entries: Any = streams.client.xrange(streams.commands.keys(QUEUE).ready[0])
    return {fields[b"id"].decode(): fields for _, fields in entries}


def options(fields: dict[bytes, bytes]) -> dict[str, Any]:
    found: dict[str, Any] = get_encoder().decode(fields[b"options"])
    return found


FILTERS = {
    "reason": (DeadFilter(reason="rejected"), {"rejected"}),
    "actor": (DeadFilter(actor="other"), {"other's"}),
    "type": (DeadFilter(error_type="KeyError"), {"rejected", "other's"}),
    "text": (DeadFilter(error="user 7"), {"other's"}),
    "older": (DeadFilter(older_than_ms=60_000), {"old"}),
    "younger": (DeadFilter(younger_than_ms=60_000), {"rejected", "other's"}),
    "both": (DeadFilter(reason="rejected", actor="other"), set()),
}


@pytest.fixture
def three(streams: StreamsBroker) -> StreamsBroker:
    bury(streams, "old", error="ValueError: bad", age_ms=120_000)
    bury(streams, "rejected", "rejected", error="KeyError: user 1")
    bury(streams, "other's", actor="other", error="KeyError: user 7")
    return streams


@pytest.mark.parametrize("name", FILTERS)
def test_a_redrive_takes_what_its_filter_says(three: StreamsBroker, name: str) -> None:
    where, expected = FILTERS[name]
    would = sum(group.count for group in three.inspector.dead_groups(QUEUE, where))
    assert would == len(expected)
    page = three.inspector.dead_page(QUEUE, where)
    assert {head.id for head in page.letters} == expected
    assert three.inspector.redrive(QUEUE, where=where) == len(expected)
    assert ready(three).keys() == expected
    assert three.inspector.queue(QUEUE).dead == 3 - len(expected)


@pytest.mark.parametrize("by_name", [False, True])
def test_a_letter_that_no_script_can_write_back_stays_and_the_others_are_redriven(
    streams: StreamsBroker, by_name: bool
) -> None:
    bury(streams, "before", age_ms=2)
    junk: dict[Any, Any] = {f"field {number}": "x" for number in range(4_500)}
    streams.client.xadd(streams.commands.keys(QUEUE).ready[0], junk)
    die(streams, "")
    bury(streams, "after")
    letters = streams.inspector.dead(QUEUE)
    (large,) = (letter.id for letter in letters if letter.message is None)
    ids = [letter.id for letter in letters] if by_name else None
    with pytest.raises(NotRedriven, match="2 dead letters moved, and 1 can't") as stays:
        streams.inspector.redrive(QUEUE, ids)
    assert (stays.value.moved, stays.value.ids) == (2, (large,))
    assert ready(streams).keys() == {"before", "after"}
    assert [letter.id for letter in streams.inspector.dead(QUEUE)] == [large]


def test_groups_count_by_reason_actor_and_error_type(streams: StreamsBroker) -> None:
    for number in range(3):
        bury(streams, f"k{number}", error="KeyError: x")
    bury(streams, "v", error="ValueError: x", age_ms=50)
    first, second = streams.inspector.dead_groups(QUEUE)
    assert (first.reason, first.actor, first.error_type) == ("retries_exhausted", "job", "KeyError")
    assert first.count == 3
    assert first.oldest_ms <= first.newest_ms
    died_at = int(streams.client.zscore(streams.commands.keys(QUEUE).dead, "v") or 0)
    assert second == DeadGroup("retries_exhausted", "job", "ValueError", 1, died_at, died_at)


def test_pages_lead_from_the_newest_to_the_oldest(streams: StreamsBroker) -> None:
    for number in range(7):
        bury(streams, f"m{number}", age_ms=1_000 - number)
    found, after = [], None
    for _ in range(3):
        page = streams.inspector.dead_page(QUEUE, after=after, limit=3)
        found += [head.id for head in page.letters]
        after = page.next
    assert found == [f"m{number}" for number in reversed(range(7))]
    assert after is None


def test_a_redriven_message_is_as_it_was_but_for_what_the_redrive_says(
    streams: StreamsBroker,
) -> None:
    started = int(time.time() * 1000)
    bury(streams, "m", retries=3, traceback="old", attempts=[[1, "w", "E", "e"]], mine=[1])
    for times in (1, 2):
        before = streams.inspector.dead(QUEUE)[0].fields
        streams.inspector.redrive(QUEUE)
        after = ready(streams)["m"]
        assert {name: after[name.encode()] for name in ("args", "at", "actor")} == {
            name: before[name] for name in ("args", "at", "actor")
        }
        told = options(after)
        assert started <= told.pop("redriven_at") <= time.time() * 1000
        assert told == {"mine": [1], "redrives": times}
        die(streams, "m")
        (letter,) = streams.inspector.dead(QUEUE)
        assert letter.redrives == times
        assert letter.redriven_at_ms is not None


def test_an_applications_own_encoding_is_redriven_as_well(streams: StreamsBroker) -> None:
    encoder = get_encoder()
    set_encoder(Msgpack())
    try:
        bury(streams, "m", retries=3)
        assert streams.inspector.redrive(QUEUE) == 1
        (fields,) = ready(streams).values()
        assert get_encoder().decode(fields[b"message"])["options"]["redrives"] == 1
    finally:
        set_encoder(encoder)


def test_a_redrive_keeps_its_rate(streams: StreamsBroker) -> None:
    for number in range(20):
        bury(streams, f"m{number}")
    started = time.monotonic()
    assert streams.inspector.redrive(QUEUE, per_second=40) == 20
    assert 0.4 <= time.monotonic() - started <= 2


def test_letters_that_die_again_meanwhile_wait_for_the_next_redrive(
    streams: StreamsBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.dead_letters._BATCH", 1)
    for number in range(3):
        bury(streams, f"m{number}", age_ms=100)
    redrive = streams.commands.redrive
    moved: list[str] = []

    def redrive_to_die_again(queue: str, letters: Iterable[Redriven]) -> int:
        some = list(letters)
        done = redrive(queue, some)
        moved.extend(letter.message_id for letter in some)
        assert len(moved) <= 3
        time.sleep(0.002)  # it dies later than the redrive began, by the server's clock
        for letter in some:
            die(streams, letter.message_id)
        return done

    monkeypatch.setattr(streams.commands, "redrive", redrive_to_die_again)
    assert streams.inspector.redrive(QUEUE) == 3
    assert streams.inspector.queue(QUEUE).dead == 3


def test_letters_are_redriven_by_name(streams: StreamsBroker) -> None:
    for number in range(3):
        bury(streams, f"m{number}")
    assert streams.inspector.redrive(QUEUE, ["m2", "m0", "m2", "nobody"]) == 2
    assert ready(streams).keys() == {"m0", "m2"}


def test_large_letters_go_in_parts_that_fit_into_memory(
    streams: StreamsBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.dead_letters._BYTES_PER_CALL", 10)
    for number in range(3):
        bury(streams, f"m{number}")
    assert streams.inspector.redrive(QUEUE) == 3


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("reason", "bad luck"), ("older_than_ms", -1), ("younger_than_ms", 1.5)],
)
def test_a_wrong_filter_is_refused(field: str, wrong: object) -> None:
    with pytest.raises(InvalidOption, match=field):
        DeadFilter(**{field: wrong})  # type: ignore[arg-type]


def test_a_wrong_rate_and_a_wrong_cursor_are_refused(streams: StreamsBroker) -> None:
    with pytest.raises(InvalidOption, match="per_second"):
        streams.inspector.redrive(QUEUE, per_second=0)
    with pytest.raises(InvalidOption, match="after"):
        streams.inspector.dead_page(QUEUE, after="yesterday")


def test_a_worker_keeps_only_the_newest_of_a_queues_dead_letters(
    valkey_server: EmbeddedValkey, new_broker: NewBroker, start_worker: StartWorker
) -> None:
    streams = new_broker(
        "streams", valkey_server.url, dead_letters={QUEUE: DeadRetention(60_000, 2)}
    )
    assert isinstance(streams, StreamsBroker)
    for number in range(5):
        bury(streams, f"m{number}", age_ms=1_000 - number)
    bury(streams, "old", age_ms=70_000)

    @dramatiq.actor(queue_name=QUEUE)
    def job() -> None:
        pass

    start_worker(streams)
    eventually(lambda: streams.inspector.queue(QUEUE).dead, lambda dead: dead == 2, what="a sweep")
    assert {letter.id for letter in streams.inspector.dead(QUEUE)} == {"m3", "m4"}
