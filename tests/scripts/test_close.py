"""close.lua and open.lua: a queue takes nothing more from producers, and all that its jobs send."""

from __future__ import annotations

import pytest

from broker.errors import QueueClosed
from tests.scripts.conftest import QUEUE, Scripts


def test_a_closed_queue_refuses_and_writes_nothing(scripts: Scripts) -> None:
    assert scripts.commands.close(QUEUE)
    assert not scripts.commands.close(QUEUE)
    before = scripts.snapshot()
    with pytest.raises(QueueClosed, match="'work' is closed"):
        scripts.enqueue("m")
    with pytest.raises(QueueClosed):
        scripts.schedule("m")
    assert scripts.snapshot() == before
    assert scripts.commands.inspect(QUEUE).closed


def test_what_a_job_sends_is_taken(scripts: Scripts) -> None:
    scripts.commands.close(QUEUE)
    scripts.commands.enqueue(QUEUE, "t1", [scripts.new("a")], inner=True)
    scripts.commands.schedule(QUEUE, "t2", 60_000, [scripts.new("b")], inner=True)
    assert scripts.ids() == ["a"]
    assert scripts.commands.inspect(QUEUE).scheduled == 1


def test_a_bound_holds_for_what_a_job_sends_too(scripts: Scripts) -> None:
    scripts.commands.close(QUEUE)
    scripts.commands.enqueue(QUEUE, "t1", [scripts.new("a")], max_depth=1, inner=True)
    with pytest.raises(Exception, match="the limit is 1"):
        scripts.commands.enqueue(QUEUE, "t2", [scripts.new("b")], max_depth=1, inner=True)


def test_the_repeat_of_what_was_let_in_before_is_no_new_message(scripts: Scripts) -> None:
    scripts.enqueue("a", token="t")
    scripts.schedule("b", token="u")
    scripts.commands.close(QUEUE)
    assert scripts.enqueue("a", token="t") == ["a"]
    assert scripts.schedule("b", token="u") == ["b"]


def test_an_open_queue_takes_messages_again_and_nothing_is_left_of_the_close(
    scripts: Scripts,
) -> None:
    before = scripts.snapshot()
    scripts.commands.close(QUEUE)
    assert scripts.commands.open(QUEUE)
    assert not scripts.commands.open(QUEUE)
    assert scripts.snapshot() == before
    assert scripts.enqueue("m") == ["m"]
    assert not scripts.commands.inspect(QUEUE).closed
