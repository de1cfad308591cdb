"""purge.lua: everything but the dead letters is dropped."""

from __future__ import annotations

from tests.scripts.conftest import QUEUE, Scripts


def test_a_purge_drops_everything_but_the_dead_letters(scripts: Scripts) -> None:
    scripts.bury("dead")
    before = scripts.snapshot()
    scripts.enqueue(*(scripts.new(f"m{n}", n % 3, key=f"k{n}") for n in range(6)))
    scripts.take(2)
    scripts.schedule(scripts.new("later", key="later"))
    dropped = [scripts.commands.purge(QUEUE, 100) for _ in range(2)]
    assert dropped == [7, 0]
    left = scripts.snapshot()
    assert {key for key in left if not key.startswith(("ready", "wake"))} == {
        "dead",
        "dead:messages",
        "job:dead",
    }
    assert all(left[key] == before[key] for key in ("dead", "dead:messages", "job:dead"))
    assert all(scripts.entries(level) == [] for level in range(3))
    assert all(scripts.pending(level) == [] for level in range(3))


def test_a_purge_takes_a_bounded_part_of_each_place(scripts: Scripts) -> None:
    scripts.enqueue(*(scripts.new(f"m{n}", n % 2) for n in range(10)))
    scripts.schedule(*(f"s{n}" for n in range(5)))
    calls = []
    while dropped := scripts.commands.purge(QUEUE, 2):
        calls.append(dropped)
    assert calls == [6, 6, 3]


def test_a_purge_drops_entries_of_other_languages_and_queues_without_a_group(
    scripts: Scripts,
) -> None:
    scripts.client.xadd(scripts.keys.ready[0], {"no": "id"})
    assert scripts.commands.purge(QUEUE, 10) == 1
    assert scripts.client.xlen(scripts.keys.ready[0]) == 0


def test_a_younger_message_keeps_the_deduplication_key(scripts: Scripts) -> None:
    scripts.enqueue(scripts.new("m", key="k"))
    scripts.client.hset(scripts.keys.dedup, "k", "younger")
    assert scripts.commands.purge(QUEUE, 10) == 1
    assert scripts.dedup() == {b"k": b"younger"}


def test_a_purged_message_may_be_enqueued_again_even_with_its_token(scripts: Scripts) -> None:
    scripts.enqueue(scripts.new("m", key="k"), token="t")
    scripts.commands.purge(QUEUE, 10)
    assert scripts.enqueue(scripts.new("m", key="k"), token="t") == ["m"]
    assert scripts.ids() == ["m"]


def test_the_oldest_go_first(scripts: Scripts) -> None:
    scripts.enqueue("a", "b", "c")
    scripts.schedule("late", delay_ms=70_000)
    scripts.schedule("soon", delay_ms=60_000)
    assert scripts.commands.purge(QUEUE, 1) == 2
    assert scripts.ids() == ["b", "c"]
    assert scripts.client.zrange(scripts.keys.scheduled, 0, -1) == [b"late"]
    assert scripts.client.hkeys(scripts.keys.scheduled_messages) == [b"late"]
