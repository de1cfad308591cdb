"""enqueue.lua: messages become ready, once."""

from __future__ import annotations

import pytest
import redis

from broker.outcome import Bury, Done
from broker.packing import pack_texts
from tests.scripts.conftest import QUEUE, Scripts, fields_of


def test_each_message_goes_to_the_stream_of_its_level(scripts: Scripts) -> None:
    sent = [scripts.new("low"), scripts.new("high", 2), scripts.new("low2")]
    assert scripts.enqueue(*sent) == ["low", "high", "low2"]
    assert [scripts.ids(level) for level in range(3)] == [["low", "low2"], [], ["high"]]
    assert scripts.entries(2)[0] == {
        b"id": b"high",
        b"actor": b"record",
        b"at": b"1",
        b"args": b"[]",
    }


def test_a_live_message_has_a_record_that_does_not_expire(scripts: Scripts) -> None:
    scripts.enqueue(scripts.new("m", key="welcome"), token="t")
    assert scripts.record("m") == {b"token": b"t", b"dedup": b"welcome"}
    assert scripts.client.ttl(scripts.keys.job_prefix + "m") == -1
    assert scripts.dedup() == {b"welcome": b"m"}


def test_the_same_token_again_changes_nothing(scripts: Scripts) -> None:
    scripts.enqueue("a", "b", token="t")
    before = scripts.snapshot()
    assert scripts.enqueue("a", "b", token="t") == ["a", "b"]
    assert scripts.snapshot() == before


def test_the_same_token_after_the_end_changes_nothing(scripts: Scripts) -> None:
    scripts.enqueue("a", token="t")
    scripts.settle(scripts.take()[0], Done())
    assert scripts.enqueue("a", token="t") == ["a"]
    assert scripts.ids() == []


def test_a_live_message_is_not_enqueued_twice(scripts: Scripts) -> None:
    scripts.enqueue("a", token="t1")
    before = scripts.snapshot()
    assert scripts.enqueue("a", token="t2") == ["a"]
    assert scripts.snapshot() == before


def test_a_successor_of_a_live_message_is_enqueued(scripts: Scripts) -> None:
    scripts.enqueue("a", token="t1")
    scripts.enqueue(scripts.new("a", successor=True), token="t2")
    assert scripts.ids() == ["a", "a"]
    assert scripts.record("a") == {b"token": b"t2", b"others": b"1"}


def test_a_finished_message_may_be_enqueued_again(scripts: Scripts) -> None:
    scripts.enqueue("a", token="t1")
    scripts.settle(scripts.take()[0], Done())
    assert scripts.enqueue("a", token="t2") == ["a"]
    assert scripts.ids() == ["a"]
    assert scripts.record("a") == {b"token": b"t2"}
    assert scripts.client.ttl(scripts.keys.job_prefix + "a") == -1


def test_a_deduplication_key_names_its_holder_and_leaves_no_record(scripts: Scripts) -> None:
    scripts.enqueue(scripts.new("first", key="k"))
    before = scripts.snapshot()
    assert scripts.enqueue(scripts.new("second", key="k")) == ["first"]
    assert scripts.snapshot() == before


@pytest.mark.parametrize("outcome", [Done(), Bury("rejected", "")])
def test_a_deduplication_key_is_free_after_the_end(scripts: Scripts, outcome: Done | Bury) -> None:
    scripts.enqueue(scripts.new("first", key="k"))
    scripts.settle(scripts.take()[0], outcome, key="k")
    assert scripts.enqueue(scripts.new("second", key="k")) == ["second"]
    assert scripts.dedup() == {b"k": b"second"}


def test_two_of_one_key_in_one_call_are_one(scripts: Scripts) -> None:
    assert scripts.enqueue(scripts.new("a", key="k"), scripts.new("b", key="k")) == ["a", "a"]
    assert scripts.ids() == ["a"]


def test_an_id_twice_in_one_call_is_one(scripts: Scripts) -> None:
    assert scripts.enqueue("a", "a") == ["a", "a"]
    assert scripts.ids() == ["a"]


def test_a_successor_keeps_the_key_that_its_own_id_holds(scripts: Scripts) -> None:
    scripts.enqueue(scripts.new("a", key="k"))
    scripts.enqueue(scripts.new("a", 1, key="k", successor=True), token="t2")
    assert scripts.ids(1) == ["a"]
    assert scripts.record("a") == {b"token": b"t2", b"dedup": b"k", b"others": b"1"}
    assert scripts.dedup() == {b"k": b"a"}


def test_a_live_or_finished_message_keeps_its_record_when_its_new_key_is_held(
    scripts: Scripts,
) -> None:
    scripts.enqueue("finished", token="t1")
    scripts.settle(scripts.take()[0], Done())
    scripts.enqueue("live", token="t2")
    scripts.enqueue(scripts.new("holder", key="k"))
    before = scripts.snapshot()
    assert scripts.enqueue(scripts.new("finished", key="k")) == ["holder"]
    assert scripts.enqueue(scripts.new("live", key="k", successor=True)) == ["holder"]
    assert scripts.snapshot() == before


def test_a_buried_message_may_be_enqueued_again_with_another_key(scripts: Scripts) -> None:
    scripts.bury("m", key="old")
    assert scripts.enqueue(scripts.new("m", key="new"), token="t2") == ["m"]
    assert scripts.record("m") == {b"token": b"t2", b"dedup": b"new"}
    assert scripts.dedup() == {b"new": b"m"}
    assert scripts.letters() == [b"m"]


def test_a_repeat_wakes_nobody(scripts: Scripts) -> None:
    scripts.client.hset(scripts.keys.control, "paused", "1")
    scripts.enqueue("a", token="t")
    scripts.enqueue("a", token="t")
    assert scripts.signals() == 1


def test_an_open_queue_needs_no_signals(scripts: Scripts) -> None:
    scripts.enqueue("a")
    assert scripts.signals() == 0


def test_a_gated_queue_gets_a_signal_a_message_up_to_a_handful(scripts: Scripts) -> None:
    scripts.client.hset(scripts.keys.control, "paused", "1")
    scripts.enqueue("a", "b", "b")
    assert scripts.signals() == 2
    scripts.enqueue(*(f"m{n}" for n in range(100)))
    assert scripts.signals() == 64


def test_a_wrong_stream_is_refused_and_nothing_written(scripts: Scripts) -> None:
    k = scripts.keys
    good = pack_texts(("good", 0, 0, False, False, True, fields_of("good")))
    bad = pack_texts(("bad", 1, 1, False, False, True, fields_of("bad")))
    keys = (k.wake, k.control, k.dedup, k.lapsing, k.job_prefix, k.events, k.ready[0])
    with pytest.raises(redis.ResponseError, match="BADARG stream 1"):
        scripts.run("enqueue", keys, "t", 0, 0, good, bad)
    assert scripts.snapshot() == {}


def test_a_flushed_script_cache_is_invisible(scripts: Scripts) -> None:
    scripts.enqueue("a")
    scripts.client.script_flush()
    scripts.enqueue("b")
    assert scripts.ids() == ["a", "b"]


def test_two_hundred_messages_of_many_fields_fit_one_call(scripts: Scripts) -> None:
    many = [
        scripts.new(
            f"m{n}", n % 3, key=f"k{n}", fields=fields_of(f"m{n}", kwargs="{}", options="{}")
        )
        for n in range(200)
    ]
    assert scripts.commands.enqueue(QUEUE, "t", many) == [m.message_id for m in many]
    assert sum(len(scripts.ids(level)) for level in range(3)) == 200
