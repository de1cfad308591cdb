"""sweep.lua: dead letters past their age are dropped."""

from __future__ import annotations

from tests.scripts.conftest import QUEUE, Scripts


def test_a_sweep_drops_the_oldest_letters_that_are_past_their_age(scripts: Scripts) -> None:
    scripts.bury("old", "older", "oldest", "young")
    now = scripts.now_ms()
    scripts.client.zadd(
        scripts.keys.dead, {"old": now - 1_001, "older": now - 2_000, "oldest": now - 3_000}
    )
    assert scripts.commands.sweep(QUEUE, 1_000, None, 2) == 2
    assert scripts.letters() == [b"old", b"young"]
    assert scripts.commands.sweep(QUEUE, 1_000, None, 2) == 1
    assert set(scripts.client.hkeys(scripts.keys.dead_messages)) == {b"young"}
    assert scripts.commands.sweep(QUEUE, 60_000, None, 2) == 0


def test_a_letter_of_exactly_that_age_goes(scripts: Scripts) -> None:
    scripts.bury("m")
    assert scripts.commands.sweep(QUEUE, 0, None, 10) == 1
    assert scripts.letters() == []
    assert scripts.commands.sweep(QUEUE, 0, None, 10) == 0


def test_a_sweep_keeps_only_the_newest(scripts: Scripts) -> None:
    scripts.bury(*"abcde")
    scripts.client.zadd(scripts.keys.dead, {name: n for n, name in enumerate("abcde")})
    now = scripts.now_ms()
    scripts.client.zadd(scripts.keys.dead, {"d": now, "e": now})
    assert scripts.commands.sweep(QUEUE, 10**13, 2, 2) == 2
    assert scripts.commands.sweep(QUEUE, 10**13, 2, 2) == 1
    assert scripts.commands.sweep(QUEUE, 10**13, 2, 2) == 0
    assert scripts.letters() == [b"d", b"e"]
    assert scripts.commands.sweep(QUEUE, 10**13, 0, 10) == 2
    assert scripts.letters() == []
