"""reclaim.lua: deliveries whose lease has run out."""

from __future__ import annotations

import msgspec
import pytest
import redis

from broker.commands import BEGINNING, Position
from tests.scripts.conftest import GROUP, QUEUE, Scripts

MAX = 5


def reclaim(scripts: Scripts, lease_ms: int = 30_000, limit: int = 100) -> tuple[int, int]:
    """All of it: how many were released and buried."""
    position: Position | None = BEGINNING
    released = buried = 0
    while position is not None:
        done = scripts.commands.reclaim(QUEUE, lease_ms, MAX, limit, position)
        released, buried = released + done.released, buried + done.ended
        position = done.position
    return released, buried


def test_an_expired_lease_is_released_with_its_count(scripts: Scripts) -> None:
    scripts.enqueue("expired", "held", scripts.new("other", 2))
    other, expired, held = scripts.take()
    scripts.age(expired, other)
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
    scripts.age(
        msgspec.structs.replace(
            handed, lease=msgspec.structs.replace(handed.lease, consumer="~released")
        ),
    )
    assert reclaim(scripts) == (0, 0)
    assert scripts.pending() == [(handed.lease.entry_id, "~released", 1)]


def test_what_waits_and_is_buried_for_deliveries_of_another_copy_was_not_released(
    scripts: Scripts,
) -> None:
    scripts.enqueue("m", "expired")
    waiting, expired = scripts.take()
    scripts.release(waiting, 1)
    released = msgspec.structs.replace(waiting.lease, consumer="~released")
    scripts.age(msgspec.structs.replace(waiting, lease=released), expired)
    # As a parked copy of it adds them.
    scripts.client.hset(scripts.keys.job_prefix + "m", "unsettled", MAX - 1)
    assert reclaim(scripts) == (1, 1)
    assert scripts.letters() == [b"m"]


def test_an_entry_delivered_too_often_is_buried_with_the_evidence(scripts: Scripts) -> None:
    scripts.age(scripts.hold(scripts.new("killer", key="k"), MAX))
    before = scripts.now_ms()
    assert reclaim(scripts) == (0, 1)
    assert scripts.ids() == []
    assert scripts.pending() == []
    assert scripts.letters() == [b"killer"]
    evidence, fields = scripts.letter("killer")
    assert evidence.pop(b"lost") == b"%s c1\n" % evidence[b"died_at"]
    assert before <= int(evidence.pop(b"died_at")) <= scripts.now_ms()
    assert evidence == {
        b"reason": b"max_deliveries",
        b"error": b"delivered 5 times and never settled: it may kill its worker",
        b"deliveries": b"5",
        b"level": b"0",
        b"dedup": b"k",
        b"actor": b"record",
        b"error_type": b"",
        b"trail": b"",
        b"queue": b"",
    }
    assert fields == [b"id", b"killer", b"actor", b"record", b"at", b"1", b"args", b"[]"]
    assert scripts.record("killer")[b"state"] == b"dead"
    assert 0 < scripts.client.pttl(scripts.keys.job_prefix + "killer") <= 60_000
    assert scripts.dedup() == {}
    assert scripts.signals() == 2, "it leaves room under a global concurrency"


def test_an_entry_without_an_id_is_buried_under_its_place(scripts: Scripts) -> None:
    scripts.client.xadd(scripts.keys.ready[1], {"garbage": "1"}, id="7-7")
    (handed,) = scripts.take()
    scripts.release(handed, MAX - 1)
    scripts.age(*scripts.take())
    assert reclaim(scripts) == (0, 1)
    assert scripts.letters() == [b"1:7-7"]


def test_an_entry_deleted_while_pending_is_dropped_from_the_group(scripts: Scripts) -> None:
    scripts.enqueue("m")
    (handed,) = scripts.take()
    scripts.age(handed)
    scripts.client.xdel(scripts.keys.ready[0], handed.lease.entry_id)
    assert reclaim(scripts) == (0, 0)
    assert scripts.pending() == []


def test_a_bounded_reclaim_goes_on_where_it_stopped(scripts: Scripts) -> None:
    scripts.enqueue(*(scripts.new(f"m{n}", n % 3) for n in range(30)))
    scripts.age(*scripts.take(30))
    first = scripts.commands.reclaim(QUEUE, 30_000, MAX, 4, BEGINNING)
    assert (first.released, first.position is None) == (4, False)
    assert reclaim(scripts, limit=4) == (26, 0)
    assert {owner for level in range(3) for _, owner, _ in scripts.pending(level)} == {"~released"}


def test_an_orphan_behind_many_healthy_deliveries_is_found(scripts: Scripts) -> None:
    scripts.enqueue(*(f"m{n}" for n in range(200)), "orphan")
    *_, orphan = scripts.take(201)
    scripts.age(orphan)
    assert reclaim(scripts, limit=5) == (1, 0)


def test_a_queue_nobody_used_has_nothing_to_reclaim(scripts: Scripts) -> None:
    assert reclaim(scripts) == (0, 0)
    assert scripts.snapshot() == {}


def test_what_is_reclaimed_wakes_every_consumer(scripts: Scripts) -> None:
    scripts.enqueue("m")
    (handed,) = scripts.take()
    for n in range(5):
        scripts.client.xgroup_createconsumer(scripts.keys.wake, GROUP, f"c{n}")
    scripts.age(handed)
    reclaim(scripts)
    assert scripts.signals() == 6, "one of them may have died, and would take the only one along"


def test_a_key_of_another_kind_is_an_error_and_not_an_empty_queue(scripts: Scripts) -> None:
    scripts.client.set(scripts.keys.ready[1], "no stream")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        reclaim(scripts)


def test_the_last_delivery_but_one_is_released(scripts: Scripts) -> None:
    handed = scripts.hold("m", MAX - 1)
    scripts.age(handed)
    assert reclaim(scripts) == (1, 0)
    assert scripts.pending() == [(handed.lease.entry_id, "~released", MAX - 1)]


def test_a_delivery_younger_than_its_lease_stays_with_its_owner(scripts: Scripts) -> None:
    handed = scripts.hold("m", 1)
    scripts.age(handed, idle_ms=20_000)
    assert reclaim(scripts, lease_ms=30_000) == (0, 0)
    assert scripts.pending() == [(handed.lease.entry_id, "c1", 1)]
    assert reclaim(scripts, lease_ms=20_000) == (1, 0)


def test_burying_one_of_two_entries_of_one_id_leaves_the_other_alone(scripts: Scripts) -> None:
    _, high = scripts.twins()
    scripts.release(high, MAX - 1)
    (high,) = scripts.take()
    scripts.age(high)
    assert reclaim(scripts) == (0, 1)
    assert scripts.pending(0) == [(b"1-1", "c1", 1)]
    assert (scripts.ids(0), scripts.ids(1)) == (["m0"], [])
    assert scripts.letters() == [b"m1"]
    evidence, _ = scripts.letter("m1")
    assert evidence[b"level"] == b"1"


def test_a_message_of_another_language_is_buried_without_a_deduplication_key(
    scripts: Scripts,
) -> None:
    scripts.client.xadd(scripts.keys.ready[0], {"id": "foreign"})
    (handed,) = scripts.take()
    scripts.release(handed, MAX - 1)
    scripts.age(*scripts.take())
    assert reclaim(scripts) == (0, 1)
    evidence, fields = scripts.letter("foreign")
    assert evidence[b"dedup"] == b""
    assert fields == [b"id", b"foreign"]
    assert scripts.record("foreign").items() >= {b"state": b"dead", b"token": b""}.items()


def test_a_burial_leaves_the_deduplication_key_to_a_younger_message(scripts: Scripts) -> None:
    scripts.age(scripts.hold(scripts.new("killer", key="k"), MAX))
    scripts.client.hset(scripts.keys.dedup, "k", "younger")
    assert reclaim(scripts) == (0, 1)
    assert scripts.dedup() == {b"k": b"younger"}


def test_a_second_death_of_an_id_is_a_second_letter(scripts: Scripts) -> None:
    scripts.bury("m")
    handed = scripts.hold(scripts.new("m", successor=True), MAX)
    scripts.age(handed)
    assert reclaim(scripts) == (0, 1)
    assert scripts.letters() == [b"m", b"m:" + handed.lease.entry_id]


def test_the_limit_holds_over_all_levels_and_counts_what_is_buried(scripts: Scripts) -> None:
    killer = scripts.hold("killer", MAX)
    scripts.enqueue(scripts.new("high", 2), scripts.new("higher", 2))
    scripts.age(killer, *scripts.take())
    first = scripts.commands.reclaim(QUEUE, 30_000, MAX, 1, BEGINNING)
    assert (first.released, first.ended) == (0, 1)
    assert first.position == (1, b"0-0")
    second = scripts.commands.reclaim(QUEUE, 30_000, MAX, 1, first.position)
    assert (second.released, second.ended) == (1, 0)
    assert second.position is not None
    third = scripts.commands.reclaim(QUEUE, 30_000, MAX, 1, second.position)
    assert (third.released, third.ended, third.position) == (1, 0, None)


def test_a_level_whose_group_is_gone_hides_no_other(scripts: Scripts) -> None:
    scripts.enqueue("m", scripts.new("other", 1))
    scripts.age(*scripts.take())
    scripts.client.xgroup_destroy(scripts.keys.ready[0], GROUP)
    assert reclaim(scripts) == (1, 0)
    assert [owner for _, owner, _ in scripts.pending(1)] == ["~released"]


@pytest.mark.parametrize("told_of", [False, True])
def test_a_record_of_another_type_keeps_no_entry_from_its_release_or_burial(
    scripts: Scripts, told_of: bool
) -> None:
    expired = [scripts.hold("killer", MAX), scripts.hold("young", 1), scripts.hold("plain", 1)]
    for name in ("killer", "young"):
        scripts.client.delete(scripts.keys.job_prefix + name)
        scripts.client.set(scripts.keys.job_prefix + name, "no hash")
    scripts.age(*expired)
    actors = ["record"] if told_of else []
    done = scripts.commands.reclaim(
        QUEUE, 30_000, MAX, 100, BEGINNING, claimant="c2", told_of=actors
    )
    assert (done.released, done.ended, done.doomed) == (2, 1, [])
    assert scripts.ids() == ["young", "plain"]
    assert scripts.letters() == [b"killer"]
    evidence, _ = scripts.letter("killer")
    assert (evidence[b"reason"], evidence[b"deliveries"]) == (b"max_deliveries", b"5")


def test_a_record_of_another_type_keeps_nothing_of_a_vanished_consumer(scripts: Scripts) -> None:
    scripts.hold("killer", MAX)
    scripts.client.delete(scripts.keys.job_prefix + "killer")
    scripts.client.set(scripts.keys.job_prefix + "killer", "no hash")
    assert scripts.commands.reclaim_consumer(QUEUE, 0, "c1", MAX, 10) == (0, 1)
    assert scripts.letters() == [b"killer"]
