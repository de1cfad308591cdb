"""letters.lua: pages of dead letters, by the time of death and then by id."""

from __future__ import annotations

import pytest

from broker.letter_commands import LetterAges, LetterHead, LetterPosition
from broker.outcome import Bury
from tests.scripts.conftest import QUEUE, Scripts

ANY_AGE = LetterAges()


def page(
    scripts: Scripts,
    after: LetterPosition | None = None,
    limit: int = 10,
    *,
    ages: LetterAges = ANY_AGE,
    newest_first: bool = False,
) -> list[LetterHead]:
    _, heads = scripts.commands.letters(QUEUE, ages, after, limit, newest_first=newest_first)
    return heads


def names(heads: list[LetterHead]) -> list[str]:
    return [head.id for head in heads]


def test_a_head_tells_all_but_the_message(scripts: Scripts) -> None:
    handed = scripts.hold(scripts.new("m", 1, key="k"), 2)
    scripts.settle(handed, Bury("rejected", "E: why", "record", "E", "trail"), key="k")
    before = scripts.now_ms()
    now_ms, (head,) = scripts.commands.letters(QUEUE, ANY_AGE, None, 10, newest_first=True)
    assert before <= now_ms <= scripts.now_ms()
    size = len(scripts.client.hget(scripts.keys.dead_messages, "m"))
    died_at = int(scripts.client.zscore(scripts.keys.dead, "m"))
    told = LetterHead("m", died_at, size, "rejected", "E: why", 2, 1, "k", "record", "E")
    assert head == told


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_pages_bring_each_letter_once_even_when_many_died_at_one_moment(
    scripts: Scripts, limit: int, newest_first: bool
) -> None:
    scripts.bury(*"abcdefg")
    times = {"a": 1, "g": 2, "c": 2, "b": 2, "f": 2, "d": 2, "e": 3}
    scripts.client.zadd(scripts.keys.dead, times)
    found: list[str] = []
    after = None
    while heads := page(scripts, after, limit, newest_first=newest_first):
        found += names(heads)
        after = heads[-1].position
    expected = ["a", "b", "c", "d", "f", "g", "e"]
    assert found == (expected[::-1] if newest_first else expected)


def test_a_page_goes_on_behind_a_letter_that_is_gone(scripts: Scripts) -> None:
    scripts.bury("a", "b", "c")
    scripts.client.zadd(scripts.keys.dead, dict.fromkeys("abc", 5))
    after = page(scripts, limit=2)[-1].position
    scripts.client.zrem(scripts.keys.dead, "a", "b")
    assert names(page(scripts, after)) == ["c"]


def test_ages_bound_a_page_on_both_sides(scripts: Scripts) -> None:
    scripts.bury("old", "middle", "young")
    scripts.client.zadd(scripts.keys.dead, {"old": 1_000, "middle": 2_000, "young": 3_000})
    at = LetterAges(4_000, oldest=2_000, youngest=1_001)
    assert names(page(scripts, ages=at)) == ["middle"]
    assert names(page(scripts, ages=LetterAges(4_000, 3_000, 1_000))) == ["old", "middle", "young"]


def test_a_letter_that_cannot_be_read_is_told_as_such(scripts: Scripts) -> None:
    scripts.client.zadd(scripts.keys.dead, {"bad": 1, "gone": 2})
    scripts.client.hset(scripts.keys.dead_messages, "bad", b"\xff\xff")
    assert page(scripts) == [LetterHead("bad", 1, 2), LetterHead("gone", 2, 0)]
