"""The stream of events, which the keeper trims."""

from __future__ import annotations

from tests.scripts.conftest import QUEUE, Scripts


def test_events_are_trimmed_to_about_as_many_a_bounded_number_a_call(scripts: Scripts) -> None:
    for n in range(500):
        scripts.client.xadd(scripts.keys.events, {"n": n})
    assert 0 < scripts.commands.trim_events(QUEUE, 100, 200) <= 200
    while scripts.commands.trim_events(QUEUE, 100, 200):
        pass
    assert 100 <= scripts.client.xlen(scripts.keys.events) < 300
