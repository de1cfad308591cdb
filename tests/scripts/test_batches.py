"""settle.lua and fetch.lua: what a batch does at once, and what is left when a part of it fails."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import redis

from broker.commands import Handed
from broker.outcome import Bury, Done, Outcome, Park, Release, Retry, Settled
from broker.packing import unpack
from broker.settlement import Settlement
from broker.settler import BATCH
from tests.scripts.conftest import QUEUE, Scripts, fields_of, message_id


def add(scripts: Scripts, level: int, entry_id: str, name: str, **more: str) -> None:
    fields = {"id": name, "actor": "record", "at": "1", "args": "[]", **more}
    scripts.client.xadd(scripts.keys.ready[level], fields, id=entry_id)


def done(*handed: Handed) -> list[Settlement]:
    return [Settlement(one.lease, message_id(one), "", Done()) for one in handed]


def calls(scripts: Scripts, command: str) -> int:
    """How often the server ran a command since its statistics were reset."""
    stats: Any = scripts.client.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


def test_a_batch_asks_for_its_entries_and_removes_them_once_a_level(own_scripts: Scripts) -> None:
    scripts = own_scripts
    for number in (1, 2, 9, 10, 11):
        for level in (0, 1):
            add(scripts, level, f"5-{number}", f"m{level}-{number}")
    handed = scripts.take()
    assert len(handed) == 10
    scripts.client.config_resetstat()
    replies = scripts.commands.settle(QUEUE, done(*handed[2:], *handed[:2]))
    assert set(replies) == {Settled.OK}
    assert [calls(scripts, name) for name in ("xpending", "xack", "xdel")] == [2, 2, 2]
    assert (scripts.ids(0), scripts.ids(1), scripts.pending(0)) == ([], [], [])


def test_a_batch_of_several_consumers_with_others_entries_between_is_fenced_one_by_one(
    scripts: Scripts,
) -> None:
    scripts.enqueue(*(f"m{number}" for number in range(12)))
    first, second = scripts.take(6), scripts.take(6, consumer="c2")
    impostor = msgspec.structs.replace(
        second[1], lease=msgspec.structs.replace(second[1].lease, consumer="c1")
    )
    late = msgspec.structs.replace(first[2], lease=msgspec.structs.replace(first[2].lease, count=2))
    chosen = [first[0], impostor, first[5], second[0], late, second[5]]
    assert scripts.commands.settle(QUEUE, done(*chosen)) == [
        *(Settled.OK, Settled.STALE, Settled.OK, Settled.OK, Settled.STALE, Settled.OK)
    ]
    assert scripts.ids() == [f"m{number}" for number in (1, 2, 3, 4, 7, 8, 9, 10)]


@pytest.mark.parametrize(
    ("outcome", "again"),
    [
        (Done(), Settled.GONE),
        (Bury("rejected", ""), Settled.GONE),
        (Retry(60_000, 0, fields_of("m0")), Settled.GONE),
        (Park(60_000), Settled.GONE),
        (Release(), Settled.STALE),
    ],
    ids=str,
)
def test_what_a_batch_has_ended_it_ends_no_second_time(
    scripts: Scripts, outcome: Outcome, again: Settled
) -> None:
    scripts.enqueue("m0", "m1")
    first, second = scripts.take()
    end = Settlement(first.lease, "m0", "", outcome)
    batch = [end, *done(second), end, *done(first)]
    assert scripts.commands.settle(QUEUE, batch) == [Settled.OK, Settled.OK, again, again]


def spoil(scripts: Scripts, name: str) -> None:
    scripts.client.delete(scripts.keys.job_prefix + name)
    scripts.client.set(scripts.keys.job_prefix + name, "no hash")


def test_when_one_of_a_batch_fails_those_before_it_have_ended_for_good(scripts: Scripts) -> None:
    scripts.enqueue("before", "spoilt", "after")
    handed = scripts.take()
    spoil(scripts, "spoilt")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        scripts.commands.settle(QUEUE, done(*handed))
    assert scripts.ids() == ["spoilt", "after"]
    assert scripts.record("before")[b"state"] == b"completed"
    assert [entry_id for entry_id, _, _ in scripts.pending()] == [
        one.lease.entry_id for one in handed[1:]
    ]


def test_when_one_of_a_batch_fails_blocked_consumers_hear_of_what_those_before_it_left(
    scripts: Scripts,
) -> None:
    scripts.enqueue("released", "retried", "spoilt")
    handed = scripts.take()
    spoil(scripts, "spoilt")
    ends: list[Outcome] = [Release(), Retry(60_000, 0, fields_of("retried")), Done()]
    batch = [
        Settlement(one.lease, message_id(one), "", end)
        for one, end in zip(handed, ends, strict=True)
    ]
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        scripts.commands.settle(QUEUE, batch)
    assert scripts.signals() == 2


def lose_all_but_the_id(scripts: Scripts, handed: Handed, **more: str) -> Handed:
    """The server loses its data, and another message gets the entry's id, for the same consumer."""
    names = list(scripts.snapshot())
    scripts.client.delete(*(f"{{{scripts.namespace}:{QUEUE}}}:{name}" for name in names))
    add(scripts, 0, handed.lease.entry_id.decode(), "new", **more)
    (new,) = scripts.take()
    assert new.lease == handed.lease
    return new


OUTCOMES: list[Outcome] = [
    *(Done(), Release(), Park(1_000), Bury("rejected", "")),
    *(Retry(0, 0, fields_of("old")), Retry(60_000, 0, fields_of("old"))),
]


@pytest.mark.parametrize("outcome", OUTCOMES, ids=str)
@pytest.mark.parametrize("sent_again", [False, True])
def test_the_end_of_a_delivery_from_before_all_was_lost_ends_no_other_message(
    scripts: Scripts, outcome: Outcome, sent_again: bool
) -> None:
    scripts.enqueue(scripts.new("old", recorded=True))
    (old,) = scripts.take()
    new = lose_all_but_the_id(scripts, old)
    if sent_again:
        scripts.enqueue(scripts.new("old", recorded=True))
    before = scripts.snapshot()
    assert scripts.settle(old, outcome) is Settled.STALE
    assert scripts.snapshot() == before
    assert scripts.settle(new, Done()) is Settled.OK


def test_what_ends_nobodys_message_ends_the_entry_all_the_same(scripts: Scripts) -> None:
    add(scripts, 0, "5-1", "forged")
    (handed,) = scripts.take()
    end = Settlement(handed.lease, "", "", Bury("replayed", ""))
    assert scripts.commands.settle(QUEUE, [end]) == [Settled.OK]


def test_an_own_encoders_message_may_have_another_id_than_its_entry(scripts: Scripts) -> None:
    add(scripts, 0, "5-1", "entry", message="x")
    (handed,) = scripts.take()
    end = Settlement(handed.lease, "inside", "", Done())
    assert scripts.commands.settle(QUEUE, [end]) == [Settled.OK]


def test_what_is_due_is_promoted_in_few_commands(own_scripts: Scripts) -> None:
    scripts = own_scripts
    scripts.schedule(*(f"m{number:02}" for number in range(50)), delay_ms=0)
    scripts.client.config_resetstat()
    assert [message_id(one) for one in scripts.take(50)] == [
        f"m{number:02}" for number in range(50)
    ]
    assert [calls(scripts, name) for name in ("hget", "zrem", "hdel")] == [0, 1, 1]


def test_a_record_that_can_not_be_read_holds_up_no_promotion(scripts: Scripts) -> None:
    for name in ("a", "spoilt", "z"):
        scripts.schedule(scripts.new(name, recorded=True), delay_ms=0)
    scripts.client.set(scripts.keys.job_prefix + "spoilt", "no hash")
    assert [message_id(one) for one in scripts.take()] == ["a", "spoilt", "z"]
    assert scripts.client.exists(scripts.keys.scheduled, scripts.keys.scheduled_messages) == 0


def test_when_a_promotion_fails_nothing_is_in_two_places(scripts: Scripts) -> None:
    scripts.schedule(scripts.new("a low"), delay_ms=0)
    scripts.schedule(scripts.new("b high", 1), scripts.new("c low"), delay_ms=0)
    scripts.client.set(scripts.keys.ready[1], "no stream")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        scripts.take()
    assert scripts.ids(0) == ["a low"]
    left = [b"b high", b"c low"]
    assert scripts.client.zrange(scripts.keys.scheduled, 0, -1) == left
    assert sorted(scripts.client.hkeys(scripts.keys.scheduled_messages)) == left


def test_an_error_of_a_promotion_is_told(scripts: Scripts) -> None:
    scripts.schedule("m", delay_ms=0)
    scripts.client.hset(scripts.keys.scheduled_messages, "m", "junk")
    scripts.client.set(scripts.keys.dead, "no sorted set")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        scripts.take()


#: What the longest script may cost of the server's own time, which others' load does not touch.
MOST_MS = 10


def cpu_ms(scripts: Scripts) -> float:
    times: Any = scripts.client.info("cpu")
    return 1000 * float(times["used_cpu_user_main_thread"] + times["used_cpu_sys_main_thread"])


def test_neither_the_largest_promotion_nor_the_largest_batch_takes_the_server_ten_ms(
    own_scripts: Scripts,
) -> None:
    scripts, count, facts = own_scripts, 200, ["actor", "record", "error", "E" * 200]
    names = [f"m{number}" for number in range(count)]
    scripts.schedule(*(scripts.new(name, recorded=True) for name in names), delay_ms=0)
    begin = cpu_ms(scripts)
    handed = scripts.take(8)
    assert cpu_ms(scripts) - begin < MOST_MS
    assert 8 < len(scripts.ids()) < count, "the rest comes with the next fetch"
    while more := scripts.take(count):
        handed += more
    assert len(handed) == count
    burials = [
        Settlement(one.lease, message_id(one), "", Bury("rejected", ""), facts)
        for one in handed[:BATCH]
    ]
    begin = cpu_ms(scripts)
    assert set(scripts.commands.settle(QUEUE, burials)) == {Settled.OK}
    assert cpu_ms(scripts) - begin < MOST_MS


def bytes_sent(scripts: Scripts) -> int:
    """What the server has read so far."""
    return int(scripts.client.info("stats")["total_net_input_bytes"])


def test_telling_of_a_beginning_sends_no_content_back(own_scripts: Scripts) -> None:
    scripts = own_scripts
    scripts.enqueue(scripts.new("m", recorded=True, fields=fields_of("m", args="x" * 1_000_000)))
    add(scripts, 0, "9999999999999-1", "forged", sealed="x" * 1_000_000)
    handed = scripts.take(tell=False)
    scripts.fetch(0)  # so that the server knows the script
    before = bytes_sent(scripts)
    told = scripts.fetch(0, taken=handed)
    assert bytes_sent(scripts) - before < 10_000
    assert told.replays == handed[1:], "that it is sealed is told"
    assert b"started" in scripts.record("m")


@pytest.mark.parametrize("delay_ms", [0, 60_000])
def test_a_retry_sends_its_message_once(own_scripts: Scripts, delay_ms: int) -> None:
    scripts, size = own_scripts, 1_000_000
    scripts.enqueue("small", "m")
    small, large = scripts.take()
    scripts.settle(small, Done())  # so that the server knows the script
    before = bytes_sent(scripts)
    fields = fields_of("m", blob="x" * size)
    assert scripts.settle(large, Retry(delay_ms, 2, fields)) is Settled.OK
    assert size < bytes_sent(scripts) - before < 1.1 * size
    if delay_ms:
        packed = scripts.client.hget(scripts.keys.scheduled_messages, "m")
        assert unpack(packed) == [str(part).encode() for part in (*fields, "level", "2")]
    else:
        assert scripts.entries(2)[0][b"blob"] == b"x" * size
