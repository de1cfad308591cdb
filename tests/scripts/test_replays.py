"""fetch.lua: a sealed entry is a replay, unless its message was enqueued and has not ended."""

from __future__ import annotations

import pytest

from broker.commands import Handed
from broker.delivery import Lease
from broker.outcome import Done
from tests.scripts.conftest import QUEUE, Scripts, fields_of, message_id


def sealed(message_id: str) -> dict[str, str]:
    """An entry as whoever may write to the stream adds it."""
    return {"id": message_id, "actor": "record", "at": "1", "sealed": "x"}


def end(scripts: Scripts, message_id: str) -> None:
    """Let a message have been sealed and run."""
    scripts.enqueue(scripts.new(message_id, recorded=True, fields=fields_of(message_id, sealed="")))
    (handed,) = scripts.take()
    assert not handed.replay
    scripts.settle(handed, Done())


def note_by_a_worker(scripts: Scripts, message_id: str) -> None:
    """Let an entry in clear, of another language, run; its message has a record without a token."""
    scripts.client.xadd(scripts.keys.ready[0], {"id": message_id, "actor": "record"})
    (handed,) = scripts.take()
    assert not handed.replay
    assert scripts.record(message_id)[b"token"] == b""


def spoil(scripts: Scripts, message_id: str) -> None:
    scripts.client.set(scripts.keys.job_prefix + message_id, "no hash")


REPLAYS = {
    "its message has ended": end,
    "its message has no record": lambda scripts, message_id: None,
    "nobody enqueued its message": note_by_a_worker,
    "its record can't be read": spoil,
}


def add(scripts: Scripts, why: str, message_id: str) -> bytes:
    REPLAYS[why](scripts, message_id)
    entry_id: bytes = scripts.client.xadd(scripts.keys.ready[0], sealed(message_id))
    return entry_id


@pytest.mark.parametrize("tell", [True, False])
@pytest.mark.parametrize("why", REPLAYS)
def test_a_replay_is_handed_over_as_one_and_its_record_left_as_it_was(
    scripts: Scripts, why: str, tell: bool
) -> None:
    entry_id = add(scripts, why, "m")
    scripts.enqueue(scripts.new("live", fields=fields_of("live", sealed="x")), "clear")
    key = scripts.keys.job_prefix + "m"
    before, told = scripts.client.dump(key), scripts.client.xlen(scripts.keys.events)
    handed = scripts.take(tell=tell)
    found = [(message_id(one), one.replay) for one in handed]
    assert found == [("m", True), ("live", False), ("clear", False)]
    assert scripts.client.dump(key) == before
    assert scripts.client.xlen(scripts.keys.events) == told
    # Nor is it told apart when it comes a second time.
    replay = next(one for one in handed if one.lease.entry_id == entry_id)
    scripts.release(replay, 1)
    assert [one.replay for one in scripts.take(tell=tell)] == [True]


@pytest.mark.parametrize("why", REPLAYS)
def test_what_a_blocked_read_brought_is_told_apart_by_the_next_fetch(
    scripts: Scripts, why: str
) -> None:
    taken = [Handed(Lease(0, add(scripts, why, "m"), 1, "c1"), flat(sealed("m")))]
    for name in ("live", "also live"):
        scripts.enqueue(scripts.new(name, recorded=True, fields=fields_of(name, sealed="x")))
    for handed in scripts.take():
        if handed.lease != taken[0].lease:
            taken.append(handed)
    scripts.client.hdel(scripts.keys.job_prefix + "live", "started")
    assert replays(scripts, taken) == ["m"]
    assert b"started" in scripts.record("live")


def test_a_sealed_entry_that_is_no_longer_its_readers_is_not_to_be_run(scripts: Scripts) -> None:
    for name in ("m", "clear"):
        seal = {"sealed": "x"} if name == "m" else {}
        scripts.enqueue(scripts.new(name, fields=fields_of(name, **seal)))
    taken = scripts.take()
    for handed in taken:
        scripts.client.xack(scripts.keys.ready[0], "workers", handed.lease.entry_id)
    assert replays(scripts, taken) == ["m"]


def test_a_paused_queue_tells_of_replays_as_well(scripts: Scripts) -> None:
    add(scripts, "its message has no record", "m")
    taken = scripts.take()
    scripts.commands.pause(QUEUE)
    assert replays(scripts, taken) == ["m"]


def test_a_sealed_entry_without_an_id_is_a_replay(scripts: Scripts) -> None:
    scripts.client.xadd(scripts.keys.ready[0], {"sealed": "x"})
    scripts.client.xadd(scripts.keys.ready[0], {"junk": "x"})
    assert [one.replay for one in scripts.take()] == [True, False]


def replays(scripts: Scripts, taken: list[Handed]) -> list[str]:
    """The messages of which a fetch says that they were replays."""
    fetched = scripts.commands.fetch(
        QUEUE, "c1", 0, lowest_first=False, suspects=0, taken=taken, signals=()
    )
    return [message_id(one) for one in fetched.replays]


def flat(fields: dict[str, str]) -> list[bytes]:
    return [part.encode() for pair in fields.items() for part in pair]
