"""enqueue.lua and schedule.lua at a queue that may be only so long."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest

from broker.errors import QueueFull
from broker.new_message import NewMessage
from broker.outcome import Bury, Done, Retry
from tests.scripts.conftest import QUEUE, Scripts, fields_of

Put: TypeAlias = Callable[[Scripts, list[NewMessage], str, int], list[str]]


def enqueue(scripts: Scripts, messages: list[NewMessage], token: str, most: int) -> list[str]:
    return scripts.commands.enqueue(QUEUE, token, messages, max_depth=most)


def schedule(scripts: Scripts, messages: list[NewMessage], token: str, most: int) -> list[str]:
    return scripts.commands.schedule(QUEUE, token, 60_000, messages, max_depth=most)


both = pytest.mark.parametrize("put", [enqueue, schedule])


def fill(scripts: Scripts) -> None:
    """One message ready on each of two levels, one in flight, one scheduled: four."""
    scripts.enqueue("in flight")
    scripts.take()
    scripts.enqueue("low", scripts.new("high", 2))
    scripts.schedule("later")


@both
def test_a_full_queue_takes_nothing_and_says_how_long_it_is(scripts: Scripts, put: Put) -> None:
    fill(scripts)
    before = scripts.snapshot()
    with pytest.raises(QueueFull, match="queue 'work': 4 jobs .* the limit is 4") as caught:
        put(scripts, [scripts.new("m", 1)], "t", 4)
    assert (caught.value.queue, caught.value.depth, caught.value.limit) == (QUEUE, 4, 4)
    assert scripts.snapshot() == before
    assert put(scripts, [scripts.new("m", 1)], "t", 5) == ["m"]


@both
def test_a_batch_goes_in_whole_or_not_at_all(scripts: Scripts, put: Put) -> None:
    fill(scripts)
    batch = [scripts.new(name) for name in "ab"]
    with pytest.raises(QueueFull):
        put(scripts, batch, "t", 5)
    assert put(scripts, batch, "t", 6) == ["a", "b"]


@both
def test_the_repeat_of_what_was_let_in_is_no_error(scripts: Scripts, put: Put) -> None:
    batch = [scripts.new(name) for name in "ab"]
    for _ in range(2):
        assert put(scripts, batch, "t", 2) == ["a", "b"]
    with pytest.raises(QueueFull):
        put(scripts, batch, "another", 2)


@both
def test_the_successor_of_a_running_message_is_let_in(scripts: Scripts, put: Put) -> None:
    scripts.enqueue("a")
    scripts.take()
    assert put(scripts, [scripts.new("a", successor=True)], "t", 1) == ["a"]


def test_what_ends_makes_room_and_retries_and_redrives_need_none(scripts: Scripts) -> None:
    scripts.enqueue("a", "b")
    first, second = scripts.take()
    scripts.settle(first, Retry(60_000, 0, fields_of("a")))
    with pytest.raises(QueueFull):
        enqueue(scripts, [scripts.new("m")], "t", 2)
    scripts.settle(second, Done())
    assert enqueue(scripts, [scripts.new("m")], "t", 2) == ["m"]
    (handed,) = scripts.take()
    scripts.settle(handed, Bury("failed", ""))
    assert enqueue(scripts, [scripts.new("n")], "u", 2) == ["n"]
