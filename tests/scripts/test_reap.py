"""reap.lua: consumers that are long gone."""

from __future__ import annotations

from broker.packing import pack_array
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


def test_thousands_that_are_gone_are_forgotten_in_calls_that_are_each_short(
    own_scripts: Scripts,
) -> None:
    scripts, gone = own_scripts, 3_000
    streams = (scripts.keys.wake, scripts.keys.ready[0])
    scripts.fetch(0)
    pipe = scripts.client.pipeline(transaction=False)
    for stream in streams:
        for number in range(gone):
            pipe.xgroup_createconsumer(stream, GROUP, f"gone-{number}")
    pipe.execute()
    scripts.client.config_resetstat()
    assert scripts.commands.reap(QUEUE, 0) == 2 * gone + 1, "the fetching one on wake"
    stats = scripts.client.info("commandstats")
    assert stats["cmdstat_xgroup|delconsumer"]["calls"] == 2 * gone + 1
    calls = stats["cmdstat_evalsha"]["calls"] + stats.get("cmdstat_eval", {"calls": 0})["calls"]
    assert calls >= 2 * gone / 500, "one call would go through all of them"
    assert [consumers(scripts, stream) for stream in streams] == [set(), set()]


def test_who_has_come_back_and_holds_an_entry_is_not_forgotten(scripts: Scripts) -> None:
    scripts.enqueue("m")
    scripts.take(consumer="back")
    k = scripts.keys
    gone = pack_array((0, "back"))
    assert scripts.run("reap", (k.wake, *k.ready), gone) == 0
    assert [owner for _, owner, _ in scripts.pending()] == ["back"]
    assert scripts.run("reap_group", (k.ready[0],), GROUP, "back") == 0
    assert [owner for _, owner, _ in scripts.pending()] == ["back"]


def test_who_is_gone_with_its_stream_is_not_counted(scripts: Scripts) -> None:
    k = scripts.keys
    gone = [pack_array((level, "gone")) for level in (-1, 0)]
    assert scripts.run("reap", (k.wake, *k.ready), *gone) == 0
    assert scripts.run("reap_group", (k.ready[0],), GROUP, "gone") == 0
