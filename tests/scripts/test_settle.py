"""settle.lua: deliveries end once, behind their fence."""

from __future__ import annotations

import msgspec
import pytest
import redis

from broker.commands import Handed
from broker.outcome import Bury, Done, Outcome, Release, Retry, Settled
from broker.packing import pack_array, unpack
from broker.settlement import Settlement
from tests.scripts.conftest import QUEUE, Scripts, fields_of, message_id

OUTCOMES: list[Outcome] = [
    Done(),
    Retry(0, 0, fields_of("m")),
    Retry(60_000, 0, fields_of("m")),
    Release(),
    Bury("rejected", "why"),
]


@pytest.fixture
def handed(scripts: Scripts) -> Handed:
    scripts.enqueue(scripts.new("m", key="k"))
    (one,) = scripts.take()
    return one


def test_done_leaves_a_record_of_the_end_for_a_minute(scripts: Scripts, handed: Handed) -> None:
    assert scripts.settle(handed, Done(), key="k") is Settled.OK
    assert scripts.ids() == []
    assert scripts.pending() == []
    assert scripts.record("m")[b"state"] == b"completed"
    assert 0 < scripts.client.pttl(scripts.keys.job_prefix + "m") <= 60_000
    assert scripts.dedup() == {}


def test_a_retry_without_delay_is_ready_at_its_level_and_still_live(
    scripts: Scripts, handed: Handed
) -> None:
    again = fields_of("m", options='{"retries":1}')
    assert scripts.settle(handed, Retry(0, 2, again), key="k") is Settled.OK
    assert scripts.ids(0) == []
    assert scripts.entries(2)[0][b"options"] == b'{"retries":1}'
    assert scripts.record("m") == {b"token": b"token-1", b"dedup": b"k"}
    assert scripts.dedup() == {b"k": b"m"}


def test_a_retry_with_delay_is_scheduled_with_its_level(scripts: Scripts, handed: Handed) -> None:
    before = scripts.now_ms()
    assert scripts.settle(handed, Retry(5_000, 1, fields_of("m"))) is Settled.OK
    assert scripts.ids() == []
    ((id, due),) = scripts.client.zrange(scripts.keys.scheduled, 0, -1, withscores=True)
    assert id == b"m"
    assert before + 5_000 <= due <= scripts.now_ms() + 5_000
    (packed,) = scripts.client.hvals(scripts.keys.scheduled_messages)
    assert unpack(packed)[-2:] == [b"level", b"1"]
    assert scripts.signals() == 1, "somebody has to wait for the new earliest time"


def test_a_retry_later_than_the_earliest_wakes_nobody(scripts: Scripts, handed: Handed) -> None:
    scripts.schedule("earlier", delay_ms=1_000)
    signals = scripts.signals()
    scripts.settle(handed, Retry(5_000, 0, fields_of("m")))
    assert scripts.signals() == signals


def test_a_release_does_not_count_and_wakes_one(scripts: Scripts, handed: Handed) -> None:
    assert scripts.settle(handed, Release()) is Settled.OK
    assert scripts.pending() == [(handed.lease.entry_id, "~released", 0)]
    assert scripts.signals() == 1
    (again,) = scripts.take(consumer="c2")
    assert again.lease.count == 1


def test_a_burial_keeps_the_evidence(scripts: Scripts, handed: Handed) -> None:
    before = scripts.now_ms()
    outcome = Bury("rejected", "ValueError: \N{SKULL}", "record", "ValueError", "trail")
    assert scripts.settle(handed, outcome, key="k") is Settled.OK
    assert scripts.ids() == []
    ((id, died_at),) = scripts.client.zrange(scripts.keys.dead, 0, -1, withscores=True)
    assert id == b"m"
    assert before <= died_at <= scripts.now_ms()
    evidence, fields = scripts.letter("m")
    assert evidence == {
        b"reason": b"rejected",
        b"error": "ValueError: \N{SKULL}".encode(),
        b"died_at": b"%d" % died_at,
        b"deliveries": b"1",
        b"level": b"0",
        b"dedup": b"k",
        b"actor": b"record",
        b"error_type": b"ValueError",
        b"trail": b"trail",
        b"queue": b"",
        b"lost": b"",
    }
    assert fields == [each.encode() for each in map(str, fields_of("m"))]
    assert scripts.record("m")[b"state"] == b"dead"
    assert scripts.dedup() == {}


def test_an_entry_without_an_id_is_buried_under_its_place(scripts: Scripts) -> None:
    scripts.client.xadd(scripts.keys.ready[1], {"garbage": "1"}, id="7-7")
    (one,) = scripts.take()
    scripts.settle(one, Bury("undecodable", "no id"))
    assert scripts.client.zrange(scripts.keys.dead, 0, -1) == [b"1:7-7"]


def test_two_burials_of_one_id_are_two_letters(scripts: Scripts, handed: Handed) -> None:
    scripts.enqueue(scripts.new("m", successor=True))
    (second,) = scripts.take()
    for one in (handed, second):
        assert scripts.settle(one, Bury("rejected", "")) is Settled.OK
    later = f"m:{second.lease.entry_id.decode()}".encode()
    assert set(scripts.client.zrange(scripts.keys.dead, 0, -1)) == {b"m", later}
    assert set(scripts.client.hkeys(scripts.keys.dead_messages)) == {b"m", later}


@pytest.mark.parametrize("outcome", OUTCOMES, ids=str)
def test_another_consumers_or_an_earlier_delivery_is_stale_and_changes_nothing(
    scripts: Scripts, handed: Handed, outcome: Outcome
) -> None:
    scripts.release(handed, 1)
    (again,) = scripts.take(consumer="c2")
    before = scripts.snapshot()
    impostors = [
        handed,
        msgspec.structs.replace(handed, lease=msgspec.structs.replace(handed.lease, count=2)),
        msgspec.structs.replace(handed, lease=msgspec.structs.replace(handed.lease, consumer="c2")),
    ]
    for impostor in impostors:
        assert scripts.settle(impostor, outcome, key="k") is Settled.STALE
    assert scripts.snapshot() == before
    assert scripts.settle(again, outcome, key="k") is Settled.OK


@pytest.mark.parametrize("outcome", OUTCOMES, ids=str)
def test_a_released_entry_is_stale_for_its_last_holder(
    scripts: Scripts, handed: Handed, outcome: Outcome
) -> None:
    scripts.release(handed, 1)
    before = scripts.snapshot()
    assert scripts.settle(handed, outcome) is Settled.STALE
    assert scripts.snapshot() == before


@pytest.mark.parametrize("outcome", [each for each in OUTCOMES if not isinstance(each, Release)])
def test_a_settlement_made_twice_is_gone_the_second_time(
    scripts: Scripts, handed: Handed, outcome: Outcome
) -> None:
    scripts.settle(handed, outcome, key="k")
    before = scripts.snapshot()
    assert scripts.settle(handed, outcome, key="k") is Settled.GONE
    assert scripts.snapshot() == before


def test_an_entry_without_a_trace_is_lost(scripts: Scripts, handed: Handed) -> None:
    scripts.commands.purge(QUEUE, 100)
    assert scripts.settle(handed, Done()) is Settled.LOST


@pytest.mark.parametrize("outcome", OUTCOMES, ids=str)
def test_settling_one_of_two_entries_of_one_id_leaves_the_other_alone(
    scripts: Scripts, outcome: Outcome
) -> None:
    low, high = scripts.twins()
    retried = isinstance(outcome, Retry) and outcome.delay_ms == 0
    assert scripts.settle(high, outcome) is Settled.OK
    assert scripts.pending(0) == [(b"1-1", "c1", 1)]
    assert scripts.ids(0) == (["m0", "m"] if retried else ["m0"])
    if isinstance(outcome, Release):
        assert scripts.pending(1) == [(b"1-1", "~released", 0)]
    else:
        assert (scripts.ids(1), scripts.pending(1)) == ([], [])
    assert scripts.settle(low, Done()) is Settled.OK


def test_a_batch_settles_each_by_its_own_outcome(scripts: Scripts) -> None:
    scripts.enqueue("a", "b", "c", "d")
    a, b, c, d = scripts.take()
    scripts.settle(d, Done())
    outcomes: list[tuple[Handed, Outcome]] = [
        (a, Done()),
        (b, Bury("rejected", "")),
        (c, Release()),
        (d, Done()),
    ]
    batch = [Settlement(one.lease, message_id(one), "", outcome) for one, outcome in outcomes]
    assert scripts.commands.settle(QUEUE, batch) == [*[Settled.OK] * 3, Settled.GONE]
    assert scripts.ids() == ["c"]


def test_a_younger_message_keeps_the_deduplication_key(scripts: Scripts, handed: Handed) -> None:
    scripts.client.hset(scripts.keys.dedup, "k", "younger")
    scripts.settle(handed, Done(), key="k")
    assert scripts.dedup() == {b"k": b"younger"}


def test_a_suspects_end_and_a_gated_queue_wake_consumers(scripts: Scripts) -> None:
    scripts.enqueue("suspect", "other")
    (suspect,) = scripts.take(1)
    scripts.release(suspect, 2)
    suspect, other = scripts.take()
    scripts.settle(other, Done())
    assert scripts.signals() == 0
    scripts.settle(suspect, Done())
    assert scripts.signals() == 1
    scripts.enqueue("third")
    (third,) = scripts.take()
    scripts.client.hset(scripts.keys.control, "global_concurrency", "1")
    scripts.settle(third, Done())
    assert scripts.signals() == 2


@pytest.mark.parametrize("wrong", [("dance", 0), ("done", 7)], ids=str)
def test_a_wrong_settlement_refuses_the_whole_batch_and_writes_nothing(
    scripts: Scripts, handed: Handed, wrong: tuple[str, int]
) -> None:
    k = scripts.keys
    keys = (
        *(k.scheduled, k.scheduled_messages, k.dead, k.dead_messages),
        *(k.control, k.wake, k.dedup, k.job_prefix, k.events),
        *(k.recent("completed"), k.recent("dead"), k.recent("cancelled")),
        *(k.flow_prefix, k.outbox, k.lapsing, *k.ready),
    )
    right = pack_array(("done", 0, handed.lease.entry_id, 1, "c1", "m", "k", False, ""))
    outcome, level = wrong
    bad = pack_array((outcome, level, b"1-1", 1, "c1", "x", "", False, ""))
    before = scripts.snapshot()
    with pytest.raises(redis.ResponseError, match=f"BADARG outcome {outcome} level {level}"):
        scripts.run("settle", keys, -1, -1, right, bad)
    assert scripts.snapshot() == before


def test_the_end_of_a_message_without_an_id_leaves_no_record(scripts: Scripts) -> None:
    scripts.client.xadd(scripts.keys.ready[0], {"garbage": "1"})
    scripts.client.xadd(scripts.keys.ready[0], {"garbage": "2"})
    done, buried = scripts.take()
    assert scripts.settle(done, Done()) is Settled.OK
    assert scripts.settle(buried, Bury("undecodable", "")) is Settled.OK
    assert scripts.ids() == []
    assert [key for key in scripts.snapshot() if key.startswith("job:")] == []


def test_a_release_takes_one_delivery_off_the_count(scripts: Scripts) -> None:
    suspect = scripts.hold("m", 4)
    assert scripts.settle(suspect, Release()) is Settled.OK
    assert scripts.pending() == [(suspect.lease.entry_id, "~released", 3)]
    assert scripts.signals() == 2, "one for the entry, one since another suspect may be taken"


def test_a_release_made_twice_is_stale_the_second_time(scripts: Scripts, handed: Handed) -> None:
    scripts.settle(handed, Release())
    before = scripts.snapshot()
    assert scripts.settle(handed, Release()) is Settled.STALE
    assert scripts.snapshot() == before


def test_one_delivery_twice_in_a_batch_ends_once(scripts: Scripts, handed: Handed) -> None:
    twice = [Settlement(handed.lease, "m", "k", Bury("rejected", ""))] * 2
    assert scripts.commands.settle(QUEUE, twice) == [Settled.OK, Settled.GONE]
    assert scripts.letters() == [b"m"]


def test_every_settlement_of_a_gated_queue_wakes_one(scripts: Scripts) -> None:
    scripts.enqueue("a", "b")
    scripts.client.hset(scripts.keys.control, "rate", "100")
    batch = [Settlement(one.lease, message_id(one), "", Done()) for one in scripts.take()]
    scripts.commands.settle(QUEUE, batch)
    assert scripts.signals() == 2


def test_a_second_delivery_is_no_suspect(scripts: Scripts) -> None:
    scripts.settle(scripts.hold("m", 2), Done())
    assert scripts.signals() == 0
    scripts.settle(scripts.hold("n", 3), Done())
    assert scripts.signals() == 1


def test_the_end_of_an_entry_deleted_by_hand_frees_its_key(
    scripts: Scripts, handed: Handed
) -> None:
    scripts.client.xdel(scripts.keys.ready[0], handed.lease.entry_id)
    assert scripts.settle(handed, Done(), key="k") is Settled.OK
    assert (scripts.pending(), scripts.dedup()) == ([], {})


def test_an_entry_whose_group_is_gone_is_stale(scripts: Scripts, handed: Handed) -> None:
    scripts.client.xgroup_destroy(scripts.keys.ready[0], "workers")
    before = scripts.snapshot()
    assert scripts.settle(handed, Done(), key="k") is Settled.STALE
    assert scripts.snapshot() == before


def test_no_settlements_are_nothing(scripts: Scripts) -> None:
    assert scripts.commands.settle(QUEUE, []) == []
    assert scripts.snapshot() == {}
