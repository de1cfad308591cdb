"""inspect.lua: one moment of a queue in numbers."""

from __future__ import annotations

import pytest

from broker.scripts import script
from tests.scripts.conftest import QUEUE, Scripts


def test_a_queue_nobody_used_counts_nothing_and_is_not_made(scripts: Scripts) -> None:
    info = scripts.commands.inspect(QUEUE)
    counts = (info.ready, info.scheduled, info.due, info.in_flight, info.dead, info.consumers)
    assert counts == (0,) * 6
    assert (info.oldest_age_ms, info.paused) == (None, False)
    assert scripts.snapshot() == {}


def test_every_state_is_counted_over_all_levels(scripts: Scripts) -> None:
    scripts.bury("dead")
    scripts.enqueue(*(scripts.new(f"m{n}", n % 3) for n in range(6)))
    first, *_ = scripts.take(3, consumer="c1")
    scripts.take(1, consumer="c2")
    scripts.release(first, 1)
    scripts.schedule("later")
    scripts.client.zadd(scripts.keys.scheduled, {"due": 1})
    scripts.commands.pause(QUEUE)
    info = scripts.commands.inspect(QUEUE)
    assert (info.ready, info.in_flight, info.scheduled, info.due) == (3, 3, 2, 1)
    assert (info.dead, info.paused, info.consumers) == (1, True, 2)


@pytest.mark.parametrize("level", range(3))
def test_the_age_is_the_oldest_entrys(scripts: Scripts, level: int) -> None:
    now = scripts.now_ms()
    scripts.client.xadd(scripts.keys.ready[level], {"id": "old"}, id=f"{now - 90_000}-0")
    scripts.enqueue(*(scripts.new(f"young{each}", each) for each in range(3)))
    age_ms = scripts.commands.inspect(QUEUE).oldest_age_ms
    assert age_ms is not None
    assert 90_000 <= age_ms < 120_000


def aged(scripts: Scripts, age_ms: int, level: int = 0) -> None:
    scripts.client.xadd(
        scripts.keys.ready[level],
        {"id": f"of-{age_ms}", "actor": "run", "args": "[]"},
        id=f"{scripts.now_ms() - age_ms}-0",
    )


def test_what_runs_does_not_wait_however_old_it_is(scripts: Scripts) -> None:
    aged(scripts, 90_000)
    scripts.take()
    info = scripts.commands.inspect(QUEUE)
    assert (info.ready, info.in_flight, info.oldest_age_ms) == (0, 1, None)
    assert info.oldest_entry_age_ms is not None
    assert 90_000 <= info.oldest_entry_age_ms < 120_000
    aged(scripts, 30_000)
    info = scripts.commands.inspect(QUEUE)
    assert info.oldest_age_ms is not None
    assert 30_000 <= info.oldest_age_ms < 60_000


def test_what_was_handed_back_waits_and_is_older_than_what_nobody_was_given(
    scripts: Scripts,
) -> None:
    aged(scripts, 90_000)
    aged(scripts, 60_000)
    first, second = scripts.take(2)
    scripts.release(second, 1)
    aged(scripts, 30_000)
    info = scripts.commands.inspect(QUEUE)
    assert info.oldest_age_ms is not None
    assert 60_000 <= info.oldest_age_ms < 90_000
    scripts.release(first, 1)
    info = scripts.commands.inspect(QUEUE)
    assert info.oldest_age_ms is not None
    assert 90_000 <= info.oldest_age_ms < 120_000


def test_what_is_due_and_promoted_by_nobody_waits_since_its_time(scripts: Scripts) -> None:
    scripts.enqueue("young")
    scripts.schedule("later")
    age_ms = scripts.commands.inspect(QUEUE).oldest_age_ms
    assert age_ms is not None
    assert age_ms < 60_000
    scripts.client.zadd(scripts.keys.scheduled, {"due": scripts.now_ms() - 90_000})
    age_ms = scripts.commands.inspect(QUEUE).oldest_age_ms
    assert age_ms is not None
    assert 90_000 <= age_ms < 120_000


def test_a_consumer_counts_once_over_all_levels_and_the_released_never(scripts: Scripts) -> None:
    scripts.enqueue("a", "b")
    scripts.release(scripts.take(1, consumer="c1")[0], 1)
    scripts.take(1, consumer="c2")
    assert scripts.commands.inspect(QUEUE).consumers == 2


def test_it_is_a_reading_that_a_replica_would_run(scripts: Scripts) -> None:
    scripts.enqueue("m")
    k = scripts.keys
    keys = (k.scheduled, k.dead, k.control, *k.ready)
    reply = scripts.client.execute_command("EVAL_RO", script("inspect").source, len(keys), *keys)
    assert reply[1] == 1
