"""fetch.lua: entries are handed over, within every bound."""

from __future__ import annotations

import pytest
import redis

from broker.commands import Handed
from broker.limits import QueueLimit
from broker.outcome import Bury, Done, Release, Settled
from broker.settlement import Settlement
from tests.scripts.conftest import QUEUE, Scripts, message_id


def names(handed: list[Handed]) -> list[str]:
    return [message_id(one) for one in handed]


def test_entries_are_pending_with_the_consumer_and_counted(scripts: Scripts) -> None:
    scripts.enqueue("a", "b", "c")
    taken = scripts.take(2, consumer="me")
    assert names(taken) == ["a", "b"]
    assert [(one.lease.entry_id, "me", 1) for one in taken] == scripts.pending()
    assert {(one.lease.level, one.lease.count, one.lease.consumer) for one in taken} == {
        (0, 1, "me")
    }


def test_two_consumers_share_what_there_is(scripts: Scripts) -> None:
    scripts.enqueue("a", "b", "c")
    assert names(scripts.take(2, consumer="c1")) == ["a", "b"]
    assert names(scripts.take(2, consumer="c2")) == ["c"]
    assert scripts.take(consumer="c3") == []


def test_the_highest_level_comes_first_or_the_lowest_when_asked(scripts: Scripts) -> None:
    for level in (0, 1, 2):
        scripts.enqueue(scripts.new(f"a{level}", level), scripts.new(f"b{level}", level))
    assert names(scripts.take(3)) == ["a2", "b2", "a1"]
    assert names(scripts.take(2, lowest_first=True)) == ["a0", "b0"]
    assert names(scripts.take()) == ["b1"]


def test_released_entries_come_before_new_ones_and_keep_their_count(scripts: Scripts) -> None:
    scripts.enqueue("old", "new")
    (old,) = scripts.take(1)
    scripts.release(old, 2)
    taken = scripts.take(consumer="c2")
    assert names(taken) == ["old", "new"]
    assert [one.lease.count for one in taken] == [3, 1]
    assert scripts.pending() == [(one.lease.entry_id, "c2", one.lease.count) for one in taken]


def test_a_consumer_takes_as_many_suspects_as_it_may(scripts: Scripts) -> None:
    scripts.enqueue("s1", "s2", "s3", "innocent")
    for handed in scripts.take(3):
        scripts.release(handed, 2)
    assert names(scripts.take(suspects=0)) == ["innocent"]
    assert names(scripts.take(suspects=1)) == ["s1"]
    assert names(scripts.take(suspects=2)) == ["s2", "s3"]


def test_a_second_delivery_is_no_suspect(scripts: Scripts) -> None:
    scripts.enqueue("m")
    scripts.release(scripts.take()[0], 1)
    (handed,) = scripts.take(suspects=0)
    assert handed.lease.count == 2


def test_suspects_that_may_not_be_taken_hide_no_innocent_one(scripts: Scripts) -> None:
    scripts.enqueue(*(f"s{n}" for n in range(20)), "innocent")
    *suspects, innocent = scripts.take(21)
    for handed in suspects:
        scripts.release(handed, 2)
    scripts.release(innocent, 1)
    assert names(scripts.take(1, suspects=0)) == ["innocent"]


def test_an_entry_deleted_by_hand_is_not_handed_over(scripts: Scripts) -> None:
    scripts.enqueue("m")
    (handed,) = scripts.take()
    scripts.release(handed, 1)
    scripts.client.xdel(scripts.keys.ready[0], handed.lease.entry_id)
    assert scripts.take() == []


@pytest.mark.parametrize("how", ["delete", "destroy the group"])
def test_streams_and_groups_that_vanish_are_made_again(scripts: Scripts, how: str) -> None:
    scripts.enqueue("before")
    scripts.take()
    scripts.fetch()  # with nothing to hand over it makes the groups of all levels
    for stream in (*scripts.keys.ready, scripts.keys.wake):
        if how == "delete":
            scripts.client.delete(stream)
        else:
            scripts.client.xgroup_destroy(stream, "workers")
    scripts.enqueue("after")
    left = ["after"] if how == "delete" else ["before", "after"]
    assert names(scripts.take()) == left
    assert scripts.client.xinfo_groups(scripts.keys.wake)[0]["name"] == b"workers"


def test_a_paused_queue_hands_nothing_over_and_promotes_nothing(scripts: Scripts) -> None:
    scripts.enqueue("ready")
    scripts.schedule("due", delay_ms=0)
    assert scripts.commands.pause(QUEUE)
    fetched = scripts.fetch()
    assert (fetched.deliveries, fetched.due_in_ms, fetched.gated) == ([], None, True)
    assert scripts.client.zcard(scripts.keys.scheduled) == 1
    assert scripts.commands.resume(QUEUE)
    fetched = scripts.fetch()
    assert names(fetched.deliveries) == ["ready", "due"]
    assert not fetched.gated


def test_global_concurrency_bounds_what_all_consumers_hold(scripts: Scripts) -> None:
    scripts.enqueue(*(scripts.new(f"m{n}", n % 3) for n in range(6)))
    scripts.commands.limit(QUEUE, QueueLimit(global_concurrency=3))
    first = scripts.fetch(2, consumer="c1")
    second = scripts.fetch(2, consumer="c2")
    assert [len(fetched.deliveries) for fetched in (first, second)] == [2, 1]
    assert first.gated
    assert scripts.take(consumer="c3") == []
    scripts.settle(first.deliveries[0], Done())
    scripts.settle(second.deliveries[0], Release())
    assert len(scripts.take(consumer="c3")) == 2, "released entries hold no place"
    scripts.commands.limit(QUEUE, QueueLimit())
    assert len(scripts.take()) == 2


def test_a_rate_is_a_bucket_that_fills_with_the_servers_time(scripts: Scripts) -> None:
    scripts.enqueue(*(f"m{n}" for n in range(30)))
    scripts.commands.limit(QUEUE, QueueLimit(rate=10, per_ms=60_000))
    fetched = scripts.fetch(30)
    assert len(fetched.deliveries) == 10
    empty = scripts.fetch(30)
    assert empty.deliveries == []
    assert empty.due_in_ms is not None, "it says when the next token is there"
    assert 5_000 < empty.due_in_ms <= 6_000
    # Half a period earlier: five more tokens.
    at = int(scripts.client.hget(scripts.keys.control, "tokens_at"))
    scripts.client.hset(scripts.keys.control, "tokens_at", at - 30_000)
    assert len(scripts.take(30)) == 5
    # Ten periods earlier: the bucket is full, not more.
    scripts.client.hset(scripts.keys.control, "tokens_at", at - 600_000)
    assert len(scripts.take(30)) == 10


def test_a_clock_that_goes_back_adds_no_tokens(scripts: Scripts) -> None:
    scripts.enqueue(*(f"m{n}" for n in range(5)))
    scripts.commands.limit(QUEUE, QueueLimit(rate=2, per_ms=60_000))
    assert len(scripts.take()) == 2
    scripts.client.hset(scripts.keys.control, "tokens_at", scripts.now_ms() + 3_600_000)
    assert scripts.take() == []


def test_a_consumer_that_never_got_anything_is_counted_when_all_are_woken(
    scripts: Scripts,
) -> None:
    for n in range(3):
        scripts.fetch(consumer=f"idle{n}")
    scripts.commands.resume(QUEUE)
    assert scripts.signals() == 3 + 1


def test_read_signals_are_removed(scripts: Scripts) -> None:
    scripts.fetch()
    scripts.commands.pause(QUEUE)
    reply = scripts.client.xreadgroup("workers", "c1", {scripts.keys.wake: ">"}, count=1)
    ((_, ((signal, _),)),) = reply
    before = scripts.signals()
    scripts.fetch(signals=[signal])
    assert scripts.signals() == before - 1
    assert scripts.client.xpending(scripts.keys.wake, "workers")["pending"] == 0


def test_signals_of_a_wake_stream_that_is_gone_are_forgotten(scripts: Scripts) -> None:
    scripts.enqueue("m")
    assert names(scripts.take(signals=[b"1-1"])) == ["m"]


def test_a_flushed_server_is_served_again(own_scripts: Scripts) -> None:
    own_scripts.client.xadd(own_scripts.keys.ready[0], {"id": "before"}, id="1-1")
    (lost,) = own_scripts.take()
    own_scripts.client.flushall()
    own_scripts.enqueue("after")
    assert names(own_scripts.take()) == ["after"]
    assert own_scripts.settle(lost, Done()) is Settled.LOST


def test_a_new_entry_of_a_higher_level_comes_before_a_released_one(scripts: Scripts) -> None:
    scripts.enqueue("released")
    scripts.release(scripts.take()[0], 1)
    scripts.enqueue(scripts.new("high", 2), "low")
    assert names(scripts.take()) == ["high", "released", "low"]


def test_innocent_entries_use_up_no_place_of_a_suspect(scripts: Scripts) -> None:
    scripts.enqueue("innocent", "s1", "s2")
    innocent, *suspects = scripts.take()
    scripts.release(innocent, 1)
    for handed in suspects:
        scripts.release(handed, 2)
    assert names(scripts.take(suspects=1)) == ["innocent", "s1"]


def test_suspects_count_over_all_levels(scripts: Scripts) -> None:
    scripts.enqueue(*(scripts.new(f"s{level}", level) for level in range(3)))
    for handed in scripts.take():
        scripts.release(handed, 2)
    assert names(scripts.take(suspects=2)) == ["s2", "s1"]
    assert names(scripts.take(suspects=2)) == ["s0"]


def test_no_more_released_entries_than_asked_for(scripts: Scripts) -> None:
    scripts.enqueue("a", "b", "c", "new")
    for handed in scripts.take(3):
        scripts.release(handed, 1)
    assert names(scripts.take(2)) == ["a", "b"]
    assert names(scripts.take(2)) == ["c", "new"]


def test_a_full_queue_promotes_and_says_what_is_due_next(scripts: Scripts) -> None:
    scripts.enqueue("running")
    scripts.commands.limit(QUEUE, QueueLimit(global_concurrency=1))
    scripts.take()
    scripts.schedule("due", delay_ms=0)
    scripts.schedule("later", delay_ms=60_000)
    fetched = scripts.fetch()
    assert fetched.deliveries == []
    assert scripts.ids() == ["running", "due"]
    assert fetched.due_in_ms is not None
    assert 50_000 < fetched.due_in_ms <= 60_000


def test_a_token_is_used_for_each_delivery_and_no_more(scripts: Scripts) -> None:
    scripts.enqueue("a", "b", "c")
    scripts.commands.limit(QUEUE, QueueLimit(rate=10, per_ms=3_600_000))
    scripts.take()
    assert round(float(scripts.client.hget(scripts.keys.control, "tokens")), 2) == 7
    scripts.take()
    assert round(float(scripts.client.hget(scripts.keys.control, "tokens")), 2) == 7


def test_an_empty_bucket_waits_for_a_token_or_for_what_is_due_before(scripts: Scripts) -> None:
    scripts.enqueue("a", "b")
    scripts.commands.limit(QUEUE, QueueLimit(rate=1, per_ms=30_000))
    scripts.take()
    scripts.schedule("later", delay_ms=60_000)
    due_in_ms = scripts.fetch().due_in_ms
    assert due_in_ms is not None
    assert 20_000 < due_in_ms <= 30_000
    scripts.schedule("soon", delay_ms=10_000)
    due_in_ms = scripts.fetch().due_in_ms
    assert due_in_ms is not None
    assert due_in_ms <= 10_000


def test_a_bucket_with_tokens_waits_for_nothing(scripts: Scripts) -> None:
    scripts.commands.limit(QUEUE, QueueLimit(rate=1, per_ms=60_000))
    assert scripts.fetch().due_in_ms is None


def test_a_part_of_a_token_shortens_the_wait(scripts: Scripts) -> None:
    scripts.commands.limit(QUEUE, QueueLimit(rate=1, per_ms=60_000))
    bucket = {"tokens": "0.75", "tokens_at": str(scripts.now_ms())}
    scripts.client.hset(scripts.keys.control, mapping=bucket)
    due_in_ms = scripts.fetch().due_in_ms
    assert due_in_ms is not None
    assert 5_000 < due_in_ms <= 15_000


@pytest.mark.parametrize(
    "limit", [QueueLimit(5), QueueLimit(rate=5), None], ids=["concurrency", "rate", "none"]
)
def test_a_limited_queue_is_gated(scripts: Scripts, limit: QueueLimit | None) -> None:
    if limit is not None:
        scripts.commands.limit(QUEUE, limit)
    assert scripts.fetch().gated is (limit is not None)


def test_a_paused_queue_can_be_blocked_on(scripts: Scripts) -> None:
    scripts.commands.pause(QUEUE)
    scripts.fetch()
    (reply,) = scripts.client.xreadgroup("workers", "c1", {scripts.keys.wake: ">"})
    assert len(reply[1]) == 1


def test_a_key_of_another_kind_is_an_error_and_not_an_empty_queue(scripts: Scripts) -> None:
    scripts.client.set(scripts.keys.ready[0], "no stream")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        scripts.take()


def test_signals_that_somebody_else_reads_stay(scripts: Scripts) -> None:
    scripts.fetch(0)
    scripts.commands.pause(QUEUE)
    scripts.commands.resume(QUEUE)
    ((_, ((signal, _),)),) = scripts.client.xreadgroup(
        "workers", "c1", {scripts.keys.wake: ">"}, count=1
    )
    before = scripts.signals()
    scripts.fetch(signals=[signal])
    assert scripts.signals() == before - 1


def told(scripts: Scripts) -> list[tuple[bytes, bytes]]:
    return [
        (fields[b"event"], fields[b"id"])
        for _, fields in scripts.client.xrange(scripts.keys.events)
    ]


def test_what_is_taken_without_a_word_a_later_fetch_tells_of_or_its_settlement(
    scripts: Scripts,
) -> None:
    names = ("long", "short", "rejected")
    scripts.enqueue(*(scripts.new(name, recorded=True) for name in names))
    before = len(told(scripts))
    long, short, rejected = scripts.take(tell=False)
    assert len(told(scripts)) == before
    assert not any(b"started" in scripts.record(name) for name in names)
    facts = ["actor", "record", "started", "1700000000000"]
    ended = [
        Settlement(short.lease, message_id(short), "", Done(), facts),
        Settlement(rejected.lease, message_id(rejected), "", Bury("rejected", ""), facts),
    ]
    assert scripts.commands.settle(QUEUE, ended) == [Settled.OK] * 2
    scripts.take(0, taken=[long, short, rejected])
    assert b"started" in scripts.record("long")
    assert told(scripts)[before:] == [
        *((b"started", b"short"), (b"completed", b"short")),
        *((b"started", b"rejected"), (b"dead", b"rejected")),
        (b"started", b"long"),
    ]


def test_of_what_was_delivered_before_a_fetch_tells_always(scripts: Scripts) -> None:
    scripts.enqueue(scripts.new("m", recorded=True))
    (handed,) = scripts.take(tell=False)
    scripts.release(handed, 2)
    scripts.take(tell=False)
    assert b"started" in scripts.record("m")
