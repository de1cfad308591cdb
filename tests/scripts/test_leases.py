"""renew.lua, reclaim.lua, reclaim_consumer.lua and reap.lua: leases, and those that run out."""

from __future__ import annotations

import dataclasses

import pytest
import redis

from broker.commands import BEGINNING, Handed, Position
from broker.entry import unpack
from tests.scripts.conftest import GROUP, QUEUE, Scripts

MAX = 5


def age(scripts: Scripts, *handed: Handed, idle_ms: int = 60_000) -> None:
    """As if the deliveries had not been renewed for so long."""
    for one in handed:
        scripts.client.xclaim(
            scripts.keys.ready[one.lease.level],
            GROUP,
            one.lease.consumer,
            0,
            [one.lease.entry_id],
            idle=idle_ms,
            retrycount=one.lease.count,
            justid=True,
        )


def idle_ms(scripts: Scripts, level: int = 0) -> list[int]:
    rows = scripts.client.xpending_range(scripts.keys.ready[level], GROUP, "-", "+", 100)
    return [row["time_since_delivered"] for row in rows]


def reclaim(scripts: Scripts, lease_ms: int = 30_000, limit: int = 100) -> tuple[int, int]:
    """All of it: how many were released and buried."""
    position: Position | None = BEGINNING
    released = buried = 0
    while position is not None:
        done = scripts.commands.reclaim(QUEUE, lease_ms, MAX, limit, position)
        released, buried = released + done.released, buried + done.buried
        position = done.position
    return released, buried


def test_a_renewal_resets_the_idle_time_and_nothing_else(scripts: Scripts) -> None:
    scripts.enqueue("a", scripts.new("b", 2))
    high, low = scripts.take()
    age(scripts, low, high)
    assert scripts.commands.renew(QUEUE, [low.lease, high.lease]) == []
    assert max(idle_ms(scripts, 0) + idle_ms(scripts, 2)) < 30_000
    assert scripts.pending(0) == [(low.lease.entry_id, "c1", 1)]
    assert scripts.pending(2) == [(high.lease.entry_id, "c1", 1)]


def test_renewing_what_is_lost_says_so_and_takes_nothing_back(scripts: Scripts) -> None:
    scripts.enqueue("mine", "taken", "settled", "released")
    mine, taken, settled, released = scripts.take()
    scripts.release(taken, 1)
    scripts.take(consumer="c2")
    scripts.client.xack(scripts.keys.ready[0], GROUP, settled.lease.entry_id)
    scripts.release(released, 1)
    before = scripts.snapshot()
    earlier = dataclasses.replace(mine.lease, count=7)
    leases = [mine.lease, taken.lease, settled.lease, released.lease, earlier]
    assert scripts.commands.renew(QUEUE, leases) == leases[1:]
    assert scripts.snapshot() == before


def test_renewing_on_a_stream_that_is_gone_loses_the_lease(scripts: Scripts) -> None:
    scripts.enqueue("m")
    (handed,) = scripts.take()
    scripts.client.delete(scripts.keys.ready[0])
    assert scripts.commands.renew(QUEUE, [handed.lease]) == [handed.lease]


def test_an_expired_lease_is_released_with_its_count(scripts: Scripts) -> None:
    scripts.enqueue("expired", "held", scripts.new("other", 2))
    other, expired, held = scripts.take()
    age(scripts, expired, other)
    assert reclaim(scripts) == (2, 0)
    assert scripts.pending(0) == [
        (expired.lease.entry_id, "~released", 1),
        (held.lease.entry_id, "c1", 1),
    ]
    assert scripts.pending(2) == [(other.lease.entry_id, "~released", 1)]
    (again,) = scripts.take(1, lowest_first=True)
    assert (again.lease.entry_id, again.lease.count) == (expired.lease.entry_id, 2)


def test_what_was_released_before_is_no_news(scripts: Scripts) -> None:
    scripts.enqueue("m")
    (handed,) = scripts.take()
    scripts.release(handed, 1)
    age(
        scripts,
        dataclasses.replace(handed, lease=dataclasses.replace(handed.lease, consumer="~released")),
    )
    assert reclaim(scripts) == (0, 0)
    assert scripts.pending() == [(handed.lease.entry_id, "~released", 1)]


def test_an_entry_delivered_too_often_is_buried_with_the_evidence(scripts: Scripts) -> None:
    scripts.enqueue(scripts.new("killer", key="k"))
    (handed,) = scripts.take()
    scripts.release(handed, MAX - 1)
    (handed,) = scripts.take()
    age(scripts, handed)
    assert reclaim(scripts) == (0, 1)
    assert scripts.ids() == []
    assert scripts.pending() == []
    (packed,) = scripts.client.hvals(scripts.keys.dead_messages)
    parts = unpack(packed)
    evidence = dict(zip(parts[:12:2], parts[1:12:2], strict=True))
    assert evidence[b"reason"] == b"max_deliveries"
    assert evidence[b"deliveries"] == b"5"
    assert evidence[b"dedup"] == b"k"
    assert b"5 times" in evidence[b"error"]
    assert scripts.client.zrange(scripts.keys.dead, 0, -1) == [b"killer"]
    assert scripts.record("killer")[b"state"] == b"dead"
    assert scripts.dedup() == {}


def test_an_entry_without_an_id_is_buried_under_its_place(scripts: Scripts) -> None:
    scripts.client.xadd(scripts.keys.ready[1], {"garbage": "1"}, id="7-7")
    (handed,) = scripts.take()
    scripts.release(handed, MAX - 1)
    age(scripts, *scripts.take())
    assert reclaim(scripts) == (0, 1)
    assert scripts.client.zrange(scripts.keys.dead, 0, -1) == [b"1:7-7"]


def test_an_entry_deleted_while_pending_is_dropped_from_the_group(scripts: Scripts) -> None:
    scripts.enqueue("m")
    (handed,) = scripts.take()
    age(scripts, handed)
    scripts.client.xdel(scripts.keys.ready[0], handed.lease.entry_id)
    assert reclaim(scripts) == (0, 0)
    assert scripts.pending() == []


def test_a_bounded_reclaim_goes_on_where_it_stopped(scripts: Scripts) -> None:
    scripts.enqueue(*(scripts.new(f"m{n}", n % 3) for n in range(30)))
    age(scripts, *scripts.take(30))
    first = scripts.commands.reclaim(QUEUE, 30_000, MAX, 4, BEGINNING)
    assert (first.released, first.position is None) == (4, False)
    assert reclaim(scripts, limit=4) == (26, 0)
    assert {owner for level in range(3) for _, owner, _ in scripts.pending(level)} == {"~released"}


def test_an_orphan_behind_many_healthy_deliveries_is_found(scripts: Scripts) -> None:
    scripts.enqueue(*(f"m{n}" for n in range(200)), "orphan")
    *_, orphan = scripts.take(201)
    age(scripts, orphan)
    assert reclaim(scripts, limit=5) == (1, 0)


def test_a_queue_nobody_used_has_nothing_to_reclaim(scripts: Scripts) -> None:
    assert reclaim(scripts) == (0, 0)
    assert scripts.commands.reclaim_consumer(QUEUE, 0, "c1", MAX, 10) == (0, 0)
    assert scripts.commands.reap(QUEUE, 0) == 0
    assert scripts.snapshot() == {}


def test_a_vanished_consumer_loses_what_it_held_whatever_its_leases(scripts: Scripts) -> None:
    scripts.enqueue("a", "b", "c")
    scripts.take(2, consumer="vanished")
    scripts.take(1, consumer="alive")
    assert scripts.commands.reclaim_consumer(QUEUE, 0, "vanished", MAX, 1) == (1, 0)
    assert scripts.commands.reclaim_consumer(QUEUE, 0, "vanished", MAX, 10) == (1, 0)
    assert scripts.commands.reclaim_consumer(QUEUE, 0, "vanished", MAX, 10) == (0, 0)
    assert [owner for _, owner, _ in scripts.pending()] == ["~released", "~released", "alive"]


@pytest.mark.parametrize("how", ["expired", "vanished"])
def test_what_is_reclaimed_wakes_every_consumer(scripts: Scripts, how: str) -> None:
    scripts.enqueue("m")
    (handed,) = scripts.take()
    for n in range(5):
        scripts.client.xgroup_createconsumer(scripts.keys.wake, GROUP, f"c{n}")
    if how == "expired":
        age(scripts, handed)
        reclaim(scripts)
    else:
        scripts.commands.reclaim_consumer(QUEUE, 0, "c1", MAX, 10)
    assert scripts.signals() == 6, "one of them may have died, and would take the only one along"


def test_what_killed_a_vanished_consumer_too_often_is_buried(scripts: Scripts) -> None:
    scripts.enqueue("killer", "innocent")
    scripts.release(scripts.take(1)[0], MAX - 1)
    scripts.take(consumer="vanished")
    assert scripts.commands.reclaim_consumer(QUEUE, 0, "vanished", MAX, 10) == (1, 1)
    assert scripts.client.zrange(scripts.keys.dead, 0, -1) == [b"killer"]
    assert scripts.ids() == ["innocent"]


def consumers(scripts: Scripts, stream: str) -> set[bytes]:
    return {row["name"] for row in scripts.client.xinfo_consumers(stream, GROUP)}


def test_consumers_that_are_long_gone_are_forgotten_but_none_that_holds_entries(
    scripts: Scripts,
) -> None:
    scripts.enqueue("m", "n")
    scripts.take(1, consumer="holder")
    scripts.take(0, consumer="gone")
    scripts.client.xgroup_createconsumer(scripts.keys.ready[0], GROUP, "~released")
    scripts.client.xgroup_createconsumer(scripts.keys.ready[0], GROUP, "gone")
    ready = scripts.keys.ready[0]
    assert scripts.commands.reap(QUEUE, 60_000) == 0, "nobody is gone for long enough"
    scripts.commands.reap(QUEUE, 0)
    assert consumers(scripts, ready) == {b"holder", b"~released"}
    assert len(scripts.pending()) == 1


def test_signals_that_a_gone_consumer_holds_go_with_it(scripts: Scripts) -> None:
    scripts.fetch()
    scripts.commands.pause(QUEUE)
    scripts.client.xreadgroup(GROUP, "gone", {scripts.keys.wake: ">"}, count=1)
    assert scripts.commands.reap(QUEUE, 0) >= 1
    assert consumers(scripts, scripts.keys.wake) == set()


def test_a_key_of_another_kind_is_an_error_and_not_an_empty_queue(scripts: Scripts) -> None:
    scripts.client.set(scripts.keys.ready[1], "no stream")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        reclaim(scripts)
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        scripts.commands.reclaim_consumer(QUEUE, 1, "c1", MAX, 10)
