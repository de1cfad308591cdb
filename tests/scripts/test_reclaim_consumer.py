"""reclaim_consumer.lua: what a vanished process held."""

from __future__ import annotations

import pytest
import redis

from tests.scripts.conftest import GROUP, QUEUE, Scripts

MAX = 5


def test_a_vanished_consumer_loses_what_it_held_whatever_its_leases(scripts: Scripts) -> None:
    scripts.enqueue("a", "b", "c")
    scripts.take(2, consumer="vanished")
    scripts.take(1, consumer="alive")
    assert scripts.commands.reclaim_consumer(QUEUE, 0, "vanished", MAX, 1) == (1, 0)
    assert scripts.commands.reclaim_consumer(QUEUE, 0, "vanished", MAX, 10) == (1, 0)
    assert scripts.commands.reclaim_consumer(QUEUE, 0, "vanished", MAX, 10) == (0, 0)
    assert [owner for _, owner, _ in scripts.pending()] == ["~released", "~released", "alive"]


def test_what_killed_a_vanished_consumer_too_often_is_buried(scripts: Scripts) -> None:
    scripts.enqueue("killer", "innocent")
    scripts.release(scripts.take(1)[0], MAX - 1)
    scripts.take(consumer="vanished")
    assert scripts.commands.reclaim_consumer(QUEUE, 0, "vanished", MAX, 10) == (1, 1)
    assert scripts.letters() == [b"killer"]
    assert scripts.ids() == ["innocent"]


def test_what_is_buried_carries_its_level_and_the_evidence(scripts: Scripts) -> None:
    scripts.hold(scripts.new("killer", 2, key="k"), MAX, consumer="vanished")
    assert scripts.commands.reclaim_consumer(QUEUE, 2, "vanished", MAX, 10) == (0, 1)
    evidence, fields = scripts.letter("killer")
    assert (evidence[b"reason"], evidence[b"level"]) == (b"max_deliveries", b"2")
    assert (evidence[b"deliveries"], evidence[b"dedup"]) == (b"5", b"k")
    assert fields[:2] == [b"id", b"killer"]
    assert (scripts.ids(2), scripts.pending(2), scripts.dedup()) == ([], [], {})
    assert scripts.record("killer")[b"state"] == b"dead"
    assert scripts.signals() == 2, "it leaves room under a global concurrency"


def test_an_entry_of_the_same_id_on_another_level_stays(scripts: Scripts) -> None:
    scripts.twins()
    assert scripts.commands.reclaim_consumer(QUEUE, 1, "c1", MAX, 10) == (1, 0)
    assert scripts.pending(0) == [(b"1-1", "c1", 1)]
    assert scripts.pending(1) == [(b"1-1", "~released", 1)]


def test_an_entry_without_an_id_is_buried_under_its_place(scripts: Scripts) -> None:
    scripts.client.xadd(scripts.keys.ready[1], {"garbage": b"\xff"}, id="7-7")
    scripts.release(scripts.take()[0], MAX - 1)
    scripts.take(consumer="vanished")
    assert scripts.commands.reclaim_consumer(QUEUE, 1, "vanished", MAX, 10) == (0, 1)
    assert scripts.letters() == [b"1:7-7"]
    assert scripts.letter("1:7-7")[1] == [b"garbage", b"\xff"]


def test_an_entry_deleted_while_pending_is_dropped_from_the_group(scripts: Scripts) -> None:
    handed = scripts.hold("m", MAX)
    scripts.client.xdel(scripts.keys.ready[0], handed.lease.entry_id)
    assert scripts.commands.reclaim_consumer(QUEUE, 0, "c1", MAX, 10) == (0, 0)
    assert (scripts.pending(), scripts.letters()) == ([], [])


def test_what_is_taken_wakes_every_consumer(scripts: Scripts) -> None:
    scripts.hold("m", 1)
    for n in range(5):
        scripts.client.xgroup_createconsumer(scripts.keys.wake, GROUP, f"c{n}")
    scripts.commands.reclaim_consumer(QUEUE, 0, "c1", MAX, 10)
    assert scripts.signals() == 6, "one of them may have died, and would take the only one along"


def test_nothing_is_taken_where_there_is_no_group(scripts: Scripts) -> None:
    assert scripts.commands.reclaim_consumer(QUEUE, 0, "c1", MAX, 10) == (0, 0)
    assert scripts.snapshot() == {}
    scripts.enqueue("m")
    assert scripts.commands.reclaim_consumer(QUEUE, 0, "c1", MAX, 10) == (0, 0)


def test_a_key_of_another_kind_is_an_error_and_not_an_empty_queue(scripts: Scripts) -> None:
    scripts.client.set(scripts.keys.ready[1], "no stream")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        scripts.commands.reclaim_consumer(QUEUE, 1, "c1", MAX, 10)
