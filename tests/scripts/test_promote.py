"""promote.lua: a scheduled message runs now."""

from __future__ import annotations

from tests.scripts.conftest import Scripts


def _promote(scripts: Scripts, id: str) -> int:
    k = scripts.keys
    return int(scripts.run("promote", (k.scheduled, k.job_prefix, k.wake), id))


def test_a_scheduled_message_is_due_at_once_and_a_consumer_told(scripts: Scripts) -> None:
    scripts.schedule("m", delay_ms=3_600_000)
    signals = scripts.signals()
    assert _promote(scripts, "m") == 1
    assert scripts.signals() == signals + 1
    assert [handed.fields[1] for handed in scripts.take()] == [b"m"]


def test_one_whose_time_has_come_stays_as_it_is(scripts: Scripts) -> None:
    scripts.schedule("m", delay_ms=0)
    before = scripts.snapshot()
    assert _promote(scripts, "m") == 1
    assert scripts.snapshot() == before


def test_what_is_not_scheduled_is_told_and_nothing_written(scripts: Scripts) -> None:
    scripts.enqueue("m")
    before = scripts.snapshot()
    assert (_promote(scripts, "m"), _promote(scripts, "nobody")) == (0, 0)
    assert scripts.snapshot() == before
