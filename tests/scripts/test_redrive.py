"""redrive.lua: dead letters go back to their queue."""

from __future__ import annotations

import pytest
import redis

from broker.letter_commands import Redriven
from broker.outcome import Bury
from broker.packing import pack_array
from broker.settlement import Settlement
from tests.scripts.conftest import QUEUE, Scripts, fields_of


def letter(name: str, level: int = 0, key: str = "") -> Redriven:
    return Redriven(name, name, level, key, fields_of(name))


def test_a_redriven_letter_is_ready_again_and_live(scripts: Scripts) -> None:
    scripts.bury("m")
    assert scripts.commands.redrive(QUEUE, [letter("m", 1)]) == 1
    assert scripts.ids(1) == ["m"]
    assert scripts.client.exists(scripts.keys.dead, scripts.keys.dead_messages) == 0
    assert scripts.record("m") == {b"token": b"redrive"}
    assert scripts.client.ttl(scripts.keys.job_prefix + "m") == -1


def test_a_second_redrive_moves_nothing(scripts: Scripts) -> None:
    scripts.bury("m")
    scripts.commands.redrive(QUEUE, [letter("m")])
    before = scripts.snapshot()
    assert scripts.commands.redrive(QUEUE, [letter("m"), letter("never there")]) == 0
    assert scripts.snapshot() == before


def test_a_redriven_letter_takes_its_deduplication_key_unless_it_is_held(
    scripts: Scripts,
) -> None:
    scripts.bury("free", key="free")
    scripts.bury("held", key="held")
    scripts.enqueue(scripts.new("younger", key="held"))
    scripts.commands.redrive(QUEUE, [letter("free", key="free"), letter("held", key="held")])
    assert scripts.dedup() == {b"free": b"free", b"held": b"younger"}
    assert scripts.record("free") == {b"token": b"redrive", b"dedup": b"free"}
    assert scripts.record("held") == {b"token": b"redrive"}


def test_a_redriven_letter_keeps_the_place_in_a_flow_that_its_record_names(
    scripts: Scripts,
) -> None:
    scripts.bury("m")
    scripts.client.hset(scripts.keys.job_prefix + "m", "flow", "place")
    scripts.commands.redrive(QUEUE, [letter("m")])
    assert scripts.record("m") == {b"token": b"redrive", b"flow": b"place"}


def test_a_letter_that_is_no_message_leaves_no_record(scripts: Scripts) -> None:
    scripts.client.zadd(scripts.keys.dead, {"0:7-7": 1})
    assert scripts.commands.redrive(QUEUE, [Redriven("0:7-7", "", 0, "", [b"x", b"\xff"])]) == 1
    assert scripts.entries() == [{b"x": b"\xff"}]
    assert [key for key in scripts.snapshot() if key.startswith("job:")] == []


def test_a_letter_of_more_fields_than_an_entry_may_have_is_refused_before_anything_moves(
    scripts: Scripts,
) -> None:
    scripts.bury("a", "b")
    before = scripts.snapshot()
    large = Redriven("b", "b", 0, "", [*fields_of("b"), *("x",) * 7_000])
    assert not large.is_entry
    with pytest.raises(redis.ResponseError, match="BADARG fields of b"):
        scripts.commands.redrive(QUEUE, [letter("a"), large])
    assert scripts.snapshot() == before


def test_redriving_into_a_gated_queue_wakes_consumers(scripts: Scripts) -> None:
    scripts.bury("a", "b")
    scripts.client.hset(scripts.keys.control, "rate", "1")
    scripts.commands.redrive(QUEUE, [letter("a"), letter("b")])
    assert scripts.signals() == 2


def test_a_single_letter_wakes_one(scripts: Scripts) -> None:
    scripts.bury("m")
    scripts.client.hset(scripts.keys.control, "paused", "1")
    scripts.commands.redrive(QUEUE, [letter("m"), letter("never there")])
    assert scripts.signals() == 1


def test_a_letter_for_a_level_that_is_gone_goes_to_the_highest(scripts: Scripts) -> None:
    scripts.bury("m")
    assert scripts.commands.redrive(QUEUE, [letter("m", 9)]) == 1
    assert scripts.ids(2) == ["m"]


def test_a_redrive_to_no_stream_is_refused_and_nothing_written(scripts: Scripts) -> None:
    scripts.bury("m")
    k = scripts.keys
    keys = (
        *(k.dead, k.dead_messages, k.control, k.wake, k.dedup, k.job_prefix),
        *(k.events, k.recent("dead"), k.lapsing, *k.ready),
    )
    before = scripts.snapshot()
    good = pack_array(("m", "m", 0, "", fields_of("m")))
    bad = pack_array(("n", "n", 3, "", fields_of("n")))
    with pytest.raises(redis.ResponseError, match="BADARG level 3"):
        scripts.run("redrive", keys, good, bad)
    assert scripts.snapshot() == before


def test_letters_go_back_in_the_order_asked_for(scripts: Scripts) -> None:
    scripts.bury("a", "b", "c")
    assert scripts.commands.redrive(QUEUE, [letter("c"), letter("a")]) == 2
    assert scripts.ids() == ["c", "a"]
    assert scripts.letters() == [b"b"]
    assert scripts.record("b")[b"state"] == b"dead"


def test_two_letters_of_one_id_both_go_back(scripts: Scripts) -> None:
    scripts.bury("m")
    second = scripts.hold(scripts.new("m", successor=True), 1)
    scripts.settle(second, Bury("rejected", ""))
    names = [name.decode() for name in scripts.letters()]
    again = [Redriven(name, "m", 0, "", fields_of("m", kwargs=name)) for name in names]
    assert scripts.commands.redrive(QUEUE, again) == 2
    assert scripts.ids() == ["m", "m"]
    assert [each[b"kwargs"].decode() for each in scripts.entries()] == names
    assert scripts.letters() == []


def test_an_open_queue_needs_no_signals(scripts: Scripts) -> None:
    scripts.bury("m")
    scripts.commands.redrive(QUEUE, [letter("m")])
    assert scripts.signals() == 0


def test_a_redriven_message_is_live(scripts: Scripts) -> None:
    scripts.bury("m")
    scripts.commands.redrive(QUEUE, [letter("m")])
    before = scripts.snapshot()
    assert scripts.enqueue("m") == ["m"]
    assert scripts.snapshot() == before


def test_what_died_before_its_entry_was_noted_is_recorded_again(scripts: Scripts) -> None:
    flat = [str(part) for part in fields_of("m")]
    scripts.client.xadd(scripts.keys.ready[0], dict(zip(flat[::2], flat[1::2], strict=True)))
    (handed,) = scripts.take()
    scripts.client.delete(scripts.keys.job_prefix + "m")  # as if by a blocked read
    end = Settlement(handed.lease, "m", "", Bury("rejected", ""), ["actor", "record"])
    scripts.commands.settle(QUEUE, [end])
    ended = scripts.record("m")
    assert (b"entry" in ended, ended[b"token"]) == (False, b""), "it is not new"
    scripts.commands.redrive(QUEUE, [letter("m")])
    assert scripts.record("m")[b"entry"].startswith(b"0:")
