"""reap.lua: consumers that are long gone."""

from __future__ import annotations

from tests.scripts.conftest import GROUP, QUEUE, Scripts


def consumers(scripts: Scripts, stream: str) -> set[bytes]:
    return {row["name"] for row in scripts.client.xinfo_consumers(stream, GROUP)}


def test_consumers_that_are_long_gone_are_forgotten_but_none_that_holds_entries(
    scripts: Scripts,
) -> None:
    scripts.enqueue("m", "n")
    scripts.fetch(0)
    scripts.client.xreadgroup(GROUP, "holder", {scripts.keys.ready[0]: ">"}, count=1)
    scripts.client.xgroup_createconsumer(scripts.keys.ready[0], GROUP, "~released")
    scripts.client.xgroup_createconsumer(scripts.keys.ready[0], GROUP, "gone")
    ready = scripts.keys.ready[0]
    assert scripts.commands.reap(QUEUE, 60_000) == 0, "nobody is gone for long enough"
    assert scripts.commands.reap(QUEUE, 0) == 2, "gone, and the fetching one on wake"
    assert consumers(scripts, ready) == {b"holder", b"~released"}
    assert len(scripts.pending()) == 1


def test_signals_that_a_gone_consumer_holds_go_with_it(scripts: Scripts) -> None:
    scripts.fetch(0)
    scripts.commands.pause(QUEUE)
    scripts.client.xreadgroup(GROUP, "gone", {scripts.keys.wake: ">"}, count=1)
    assert scripts.commands.reap(QUEUE, 0) == 2
    assert consumers(scripts, scripts.keys.wake) == set()


def test_every_level_is_reaped_by_itself(scripts: Scripts) -> None:
    scripts.fetch(0)
    for stream in scripts.keys.ready:
        for name in ("gone", "holder"):
            scripts.client.xgroup_createconsumer(stream, GROUP, name)
    scripts.enqueue(scripts.new("m", 1))
    scripts.client.xreadgroup(GROUP, "holder", {scripts.keys.ready[1]: ">"})
    assert scripts.commands.reap(QUEUE, 0) == 6
    left = [consumers(scripts, stream) for stream in scripts.keys.ready]
    assert left == [set(), {b"holder"}, set()]


def test_a_queue_nobody_used_has_nobody_to_forget(scripts: Scripts) -> None:
    assert scripts.commands.reap(QUEUE, 0) == 0
    assert scripts.snapshot() == {}
