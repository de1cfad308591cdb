"""limit.lua: a queue's bounds at run time."""

from __future__ import annotations

from broker.limits import QueueLimit
from tests.scripts.conftest import QUEUE, Scripts


def test_limits_are_set_and_lifted_beside_a_pause(scripts: Scripts) -> None:
    scripts.commands.pause(QUEUE)
    scripts.commands.limit(QUEUE, QueueLimit(2, 5, 250))
    assert scripts.client.hgetall(scripts.keys.control) == {
        b"paused": b"1",
        b"global_concurrency": b"2",
        b"rate": b"5",
        b"rate_period": b"250",
    }
    scripts.commands.limit(QUEUE, QueueLimit())
    assert scripts.client.hgetall(scripts.keys.control) == {b"paused": b"1"}


def test_a_limit_that_is_set_already_keeps_its_bucket_and_wakes_nobody(scripts: Scripts) -> None:
    scripts.enqueue("a", "b", "c")
    limit = QueueLimit(rate=2, per_ms=60_000)
    assert scripts.commands.limit(QUEUE, limit)
    scripts.take()
    before = scripts.snapshot()
    assert not scripts.commands.limit(QUEUE, limit)
    assert scripts.snapshot() == before
    assert scripts.commands.limit(QUEUE, QueueLimit(rate=3, per_ms=60_000))
    assert scripts.commands.limit(QUEUE, QueueLimit())
    assert not scripts.commands.limit(QUEUE, QueueLimit())


def test_each_bound_alone_is_a_change(scripts: Scripts) -> None:
    limits = [
        QueueLimit(1),
        QueueLimit(2),
        QueueLimit(2, 5, 100),
        QueueLimit(2, 6, 100),
        QueueLimit(2, 6, 200),
        QueueLimit(None, 6, 200),
        QueueLimit(),
    ]
    assert [scripts.commands.limit(QUEUE, limit) for limit in limits] == [True] * 7
    assert scripts.client.exists(scripts.keys.control) == 0


def test_a_period_without_a_rate_is_nothing(scripts: Scripts) -> None:
    scripts.commands.limit(QUEUE, QueueLimit(2))
    assert not scripts.commands.limit(QUEUE, QueueLimit(2, None, 500))
    assert scripts.client.hgetall(scripts.keys.control) == {b"global_concurrency": b"2"}


def test_another_rate_begins_with_a_full_bucket(scripts: Scripts) -> None:
    scripts.enqueue(*(f"m{n}" for n in range(10)))
    scripts.commands.limit(QUEUE, QueueLimit(rate=2, per_ms=60_000))
    assert len(scripts.take()) == 2
    scripts.commands.limit(QUEUE, QueueLimit(rate=3, per_ms=60_000))
    assert len(scripts.take()) == 3
