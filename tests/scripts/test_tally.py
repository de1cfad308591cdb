"""tally.lua, count.lua, take_turn.lua, end_turn.lua: what failed, once, by what it died of."""

from __future__ import annotations

import pytest

from broker.failures import FailureKind
from broker.keys import notices_key
from broker.outcome import Bury
from tests.scripts.conftest import QUEUE, Scripts
from tests.waiting import eventually

LATE = 3_600_000


def kind(reason: str, actor: str = "record", error_type: str = "ValueError") -> FailureKind:
    return FailureKind(reason, actor, error_type)


def die(scripts: Scripts, *ids: str, died_at: int | None = None) -> None:
    """Bury messages, a moment ago by default: this millisecond's letters wait for the next call."""
    scripts.bury(*ids)
    at = scripts.now_ms() - 5 if died_at is None else died_at
    scripts.client.zadd(scripts.keys.dead, dict.fromkeys(ids, at))


def total(scripts: Scripts) -> int:
    return sum(scripts.commands.tallied(QUEUE).values())


def count_all(scripts: Scripts, limit: int = 100) -> int:
    calls = 1
    while scripts.commands.tally(QUEUE, limit):
        calls += 1
    return calls


def test_each_dead_letter_is_counted_once_by_its_kind(scripts: Scripts) -> None:
    die(scripts, "a", "b")
    assert count_all(scripts) == 1
    counted = scripts.commands.tallied(QUEUE)
    assert list(counted.values()) == [2]
    assert count_all(scripts) == 1
    assert scripts.commands.tallied(QUEUE) == counted
    die(
        scripts, "c", died_at=scripts.now_ms() - 1
    )  # later than the first two, however quick this is
    count_all(scripts)
    assert total(scripts) == 3


def test_what_was_redriven_or_dropped_stays_counted(scripts: Scripts) -> None:
    die(scripts, "a")
    count_all(scripts)
    scripts.commands.sweep(QUEUE, 0, None, 10)
    assert scripts.letters() == []
    count_all(scripts)
    assert total(scripts) == 1


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_pages_lose_and_repeat_nothing_however_times_coincide(scripts: Scripts, limit: int) -> None:
    now = scripts.now_ms()
    for id, age in {"a": 50, "b": 40, "c": 40, "d": 40, "e": 30, "f": 20, "g": 20}.items():
        die(scripts, id, died_at=now - age)
    count_all(scripts, limit)
    assert total(scripts) == 7


def test_a_letter_of_this_millisecond_is_left_for_the_next_call(scripts: Scripts) -> None:
    die(scripts, "a", died_at=scripts.now_ms() + LATE)
    count_all(scripts)
    assert total(scripts) == 0


def test_a_clock_that_was_set_back_stops_no_counting(scripts: Scripts) -> None:
    scripts.client.hset(scripts.keys.tally, "cursor", scripts.now_ms() + LATE)
    count_all(scripts)
    scripts.bury("a")
    died_at = scripts.client.zscore(scripts.keys.dead, "a")
    eventually(scripts.now_ms, lambda now: now > died_at)
    count_all(scripts)
    assert total(scripts) == 1


def test_evidence_is_read_beside_a_message_of_any_size_and_kind(scripts: Scripts) -> None:
    die(scripts, "small")
    scripts.client.hset(scripts.keys.dead_messages, "odd", b"\xc1 no msgpack")
    scripts.client.hset(scripts.keys.dead_messages, "long", b"\x90" + b"x" * 100_000)
    for id in ("odd", "long", "gone"):
        scripts.client.zadd(scripts.keys.dead, {id: scripts.now_ms() - 5})
    count_all(scripts)
    found = scripts.commands.tallied(QUEUE)
    assert found[FailureKind("unknown: a long message", "", "")] == 1
    assert found[FailureKind("", "", "")] == 2
    assert sum(found.values()) == 4


def test_what_is_reported_is_taken_off_and_what_came_since_stays(scripts: Scripts) -> None:
    commands = scripts.commands
    commands.count_failures(QUEUE, {kind("x"): 3, kind("y"): 1})
    reported = commands.tallied(QUEUE)
    commands.count_failures(QUEUE, {kind("x"): 2})
    commands.count_failures(QUEUE, {each: -n for each, n in reported.items()})
    assert commands.tallied(QUEUE) == {kind("x"): 2}


def test_kinds_are_bounded_and_their_names_are_plain(scripts: Scripts) -> None:
    commands = scripts.commands
    commands.count_failures(QUEUE, {kind(f"r{n}"): 1 for n in range(500)})
    found = commands.tallied(QUEUE)
    assert len(found) <= 202
    assert sum(found.values()) == 500
    assert found[FailureKind("other", "", "")] >= 298
    commands.count_failures("odd", {kind("x" * 500, "é\n\x00"): 1})
    assert list(commands.tallied("odd")) == [kind("x" * 100, "????")]


def test_one_process_has_the_turn_until_it_ends_it_or_vanishes(scripts: Scripts) -> None:
    commands = scripts.commands
    assert commands.take_turn("a", 60_000, LATE) == 0
    assert 0 < commands.take_turn("b", 60_000, LATE) <= 60_000
    assert not commands.end_turn("b", 5)
    assert commands.end_turn("a", 50_000)
    assert 0 < commands.take_turn("b", 60_000, LATE) <= 50_000
    scripts.client.delete(notices_key(scripts.namespace))
    assert commands.take_turn("a", 1, LATE) == 0
    eventually(lambda: commands.take_turn("b", 60_000, LATE), lambda wait: wait == 0)  # a vanished
    assert not commands.end_turn("a", 5)


def test_a_wait_that_only_a_wrong_clock_explains_counts_for_nothing(scripts: Scripts) -> None:
    scripts.client.hset(
        notices_key(scripts.namespace), mapping={"next": scripts.now_ms() + 2 * LATE}
    )
    assert scripts.commands.take_turn("a", 60_000, LATE) == 0


def test_a_burials_evidence_is_what_is_counted(scripts: Scripts) -> None:
    scripts.enqueue("m")
    (taken,) = scripts.take(1)
    bury = Bury("retries_exhausted", "ValueError: no", "record", "ValueError")
    scripts.settle(taken, bury)
    scripts.client.zadd(scripts.keys.dead, {"m": scripts.now_ms() - 5})
    count_all(scripts)
    assert scripts.commands.tallied(QUEUE) == {kind("retries_exhausted"): 1}
