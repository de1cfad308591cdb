"""pause.lua and resume.lua: a queue is held up, and goes on."""

from __future__ import annotations

from typing import Any

import pytest

from broker.limits import QueueLimit
from tests.scripts.conftest import GROUP, QUEUE, Scripts


def test_pausing_twice_and_resuming_twice_say_so(scripts: Scripts) -> None:
    assert [scripts.commands.pause(QUEUE) for _ in range(2)] == [True, False]
    assert scripts.client.hgetall(scripts.keys.control) == {b"paused": b"1"}
    assert [scripts.commands.resume(QUEUE) for _ in range(2)] == [True, False]
    assert scripts.client.exists(scripts.keys.control) == 0


@pytest.mark.parametrize("change", ["pause", "resume", "limit"])
def test_a_change_wakes_every_consumer(scripts: Scripts, change: str) -> None:
    scripts.fetch()
    for n in range(100):
        scripts.client.xgroup_createconsumer(scripts.keys.wake, GROUP, f"c{n}")
    changes: dict[str, Any] = {
        "pause": lambda: scripts.commands.pause(QUEUE),
        "resume": lambda: scripts.commands.resume(QUEUE),
        "limit": lambda: scripts.commands.limit(QUEUE, QueueLimit(1)),
    }
    changes[change]()
    assert scripts.signals() == 101


def test_signals_that_nobody_reads_are_trimmed(scripts: Scripts) -> None:
    scripts.fetch()
    for n in range(3):
        scripts.client.xgroup_createconsumer(scripts.keys.wake, GROUP, f"c{n}")
    for _ in range(20):
        scripts.commands.pause(QUEUE)
    assert scripts.signals() == 64


def test_a_queue_without_consumers_gets_one_signal_for_the_first(scripts: Scripts) -> None:
    scripts.commands.pause(QUEUE)
    assert scripts.signals() == 1


def test_thousands_of_consumers_cost_a_change_no_more_than_a_thousand_signals(
    own_scripts: Scripts,
) -> None:
    scripts = own_scripts
    scripts.fetch()
    pipe = scripts.client.pipeline(transaction=False)
    for number in range(3_000):
        pipe.xgroup_createconsumer(scripts.keys.wake, GROUP, f"gone-{number}")
    pipe.execute()
    scripts.client.config_resetstat()
    assert scripts.commands.pause(QUEUE)
    assert scripts.signals() == 1_000
    assert "cmdstat_xinfo|consumers" not in scripts.client.info("commandstats"), "it tells of each"
