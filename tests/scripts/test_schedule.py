"""schedule.lua: messages are put aside until their time."""

from __future__ import annotations

import pytest
import redis

from broker.packing import pack, unpack
from tests.scripts.conftest import Scripts, fields_of

#: What a message put aside can't be: no array, no fields, half a field, no strings, no level.
CORRUPT = [
    *(b"\xc1", b"\xc0", b"\x81\xa1a\xa1b", b"\x90", b"\x91\xa2id", b"\x92\xa2id\x90"),
    pack([b"level", b"1"]),
    pack([*fields_of("m"), "level", "-1"]),
    pack([*fields_of("m"), "level", "high"]),
]


def test_a_message_lies_in_both_places_until_its_time_by_the_servers_clock(
    scripts: Scripts,
) -> None:
    before = scripts.now_ms()
    assert scripts.schedule("m", delay_ms=5_000) == ["m"]
    ((id, due),) = scripts.client.zrange(scripts.keys.scheduled, 0, -1, withscores=True)
    assert id == b"m"
    assert before + 5_000 <= due <= scripts.now_ms() + 5_000
    (packed,) = scripts.client.hvals(scripts.keys.scheduled_messages)
    assert unpack(packed) == [part.encode() for part in fields_of("m") if isinstance(part, str)]
    assert scripts.record("m") == {b"token": b"token-1"}


def test_a_level_is_kept_behind_the_fields(scripts: Scripts) -> None:
    scripts.schedule(scripts.new("m", 2))
    (packed,) = scripts.client.hvals(scripts.keys.scheduled_messages)
    assert unpack(packed)[-2:] == [b"level", b"2"]


def test_a_repeat_and_a_second_message_of_a_key_change_nothing(scripts: Scripts) -> None:
    scripts.schedule(scripts.new("a", key="k"), token="t")
    before = scripts.snapshot()
    assert scripts.schedule(scripts.new("a", key="k"), token="t") == ["a"]
    assert scripts.schedule("a", token="t2") == ["a"]
    assert scripts.schedule(scripts.new("b", key="k")) == ["a"]
    assert scripts.enqueue(scripts.new("b", key="k")) == ["a"]
    assert scripts.snapshot() == before


def test_one_consumer_is_told_when_the_earliest_time_changes(scripts: Scripts) -> None:
    scripts.schedule("first", delay_ms=60_000)
    assert scripts.signals() == 1
    scripts.schedule("later", delay_ms=70_000)
    assert scripts.signals() == 1
    scripts.schedule("earlier", delay_ms=50_000)
    assert scripts.signals() == 2


def test_a_delay_that_is_no_number_is_refused_and_nothing_written(scripts: Scripts) -> None:
    k = scripts.keys
    keys = (
        *(k.scheduled, k.scheduled_messages, k.wake, k.dedup, k.lapsing),
        *(k.job_prefix, k.events, k.recent("cancelled"), k.control),
    )
    with pytest.raises(redis.ResponseError, match="BADARG delay"):
        scripts.run("schedule", keys, "t", "soon", 0, 0, pack(fields_of("m")))
    assert scripts.snapshot() == {}


def test_what_is_due_is_promoted_in_the_order_of_the_times(scripts: Scripts) -> None:
    for name, delay_ms in (("late", 3), ("early", 1), ("later", 600_000)):
        scripts.schedule(scripts.new(name, 1), delay_ms=delay_ms)
    taken: list[bytes] = []
    while len(taken) < 2:
        taken += [handed.fields[1] for handed in scripts.take()]
    assert taken == [b"early", b"late"]
    assert scripts.client.zrange(scripts.keys.scheduled, 0, -1) == [b"later"]
    assert scripts.client.hkeys(scripts.keys.scheduled_messages) == [b"later"]


def test_a_fetch_says_when_the_next_one_is_due(scripts: Scripts) -> None:
    assert scripts.fetch().due_in_ms is None
    scripts.schedule("m", delay_ms=60_000)
    due_in_ms = scripts.fetch().due_in_ms
    assert due_in_ms is not None
    assert 50_000 < due_in_ms <= 60_000


def test_a_fetch_promotes_a_bounded_number(scripts: Scripts) -> None:
    scripts.schedule(*(f"m{n}" for n in range(150)), delay_ms=0)
    scripts.schedule(*(f"n{n}" for n in range(150)), delay_ms=0)
    fetched = scripts.fetch(1)
    assert scripts.client.zcard(scripts.keys.scheduled) == 200
    assert fetched.due_in_ms == 0


@pytest.mark.parametrize("level", range(3))
def test_a_message_of_another_language_is_promoted_to_the_level_it_names(
    scripts: Scripts, level: int
) -> None:
    scripts.client.zadd(scripts.keys.scheduled, {"m": 1})
    packed = pack([*fields_of("m"), "level", str(level)])
    scripts.client.hset(scripts.keys.scheduled_messages, "m", packed)
    (handed,) = scripts.take()
    assert handed.lease.level == level
    assert b"level" not in handed.fields


def test_a_level_that_is_gone_becomes_the_highest_there_is(scripts: Scripts) -> None:
    scripts.schedule(scripts.new("m", 9), delay_ms=0)
    (handed,) = scripts.take()
    assert handed.lease.level == 2


def test_a_time_without_a_message_is_forgotten(scripts: Scripts) -> None:
    scripts.client.zadd(scripts.keys.scheduled, {"ghost": 1})
    assert scripts.take() == []
    assert scripts.client.exists(scripts.keys.scheduled, scripts.keys.dead) == 0


@pytest.mark.parametrize("written", CORRUPT, ids=repr)
def test_what_cannot_be_unpacked_is_buried_raw_and_the_next_one_promoted(
    scripts: Scripts, written: bytes
) -> None:
    scripts.client.zadd(scripts.keys.scheduled, {"wrong": 1})
    scripts.client.hset(scripts.keys.scheduled_messages, "wrong", written)
    scripts.schedule("right", delay_ms=0)
    (handed,) = scripts.take()
    assert handed.fields[1] == b"right"
    assert scripts.letters() == [b"wrong"]
    evidence, fields = scripts.letter("wrong")
    assert (evidence[b"reason"], evidence[b"deliveries"]) == (b"undecodable", b"0")
    assert evidence[b"level"] == b"0"
    assert fields == [b"packed", written]
    assert scripts.client.exists(scripts.keys.scheduled, scripts.keys.scheduled_messages) == 0


def test_a_scheduled_message_holds_its_deduplication_key(scripts: Scripts) -> None:
    assert scripts.schedule(scripts.new("a", key="k"), scripts.new("b", key="k")) == ["a", "a"]
    assert scripts.client.zrange(scripts.keys.scheduled, 0, -1) == [b"a"]
    assert scripts.client.hkeys(scripts.keys.scheduled_messages) == [b"a"]
    assert scripts.record("a") == {b"token": b"token-1", b"dedup": b"k"}
    assert scripts.dedup() == {b"k": b"a"}
    assert scripts.client.ttl(scripts.keys.job_prefix + "a") == -1


def test_a_finished_message_may_be_scheduled_again_and_a_successor_of_a_live_one(
    scripts: Scripts,
) -> None:
    scripts.bury("finished")
    scripts.enqueue("live")
    sent = [scripts.new("finished"), scripts.new("live", successor=True)]
    assert scripts.schedule(*sent, token="t") == ["finished", "live"]
    assert set(scripts.client.hkeys(scripts.keys.scheduled_messages)) == {b"finished", b"live"}
    assert scripts.record("finished") == {b"token": b"t"}
    assert scripts.record("live") == {b"token": b"t", b"others": b"1"}


def test_a_repeat_wakes_nobody(scripts: Scripts) -> None:
    scripts.schedule("m", token="t")
    scripts.schedule("m", delay_ms=10, token="t")
    assert scripts.signals() == 1


def test_a_time_in_the_past_is_due_at_once(scripts: Scripts) -> None:
    scripts.schedule("m", delay_ms=-60_000)
    assert [handed.fields[1] for handed in scripts.take()] == [b"m"]


def test_a_promoted_message_is_live_and_holds_its_key(scripts: Scripts) -> None:
    scripts.schedule(scripts.new("m", key="k"), delay_ms=0, token="t")
    scripts.take()
    assert scripts.record("m") == {b"token": b"t", b"dedup": b"k"}
    assert scripts.schedule("m", token="t") == ["m"]
    assert scripts.schedule(scripts.new("n", key="k")) == ["m"]
    assert scripts.client.zcard(scripts.keys.scheduled) == 0
