"""lead.lua: one process of all does what one process of all does."""

from __future__ import annotations

from tests.scripts.conftest import Scripts


def test_who_leads_goes_on_until_it_asks_too_late(scripts: Scripts) -> None:
    lead = scripts.commands.lead
    key = f"{{{scripts.namespace}}}:leader:gauges"
    assert lead("gauges", "first", 60_000)
    assert not lead("gauges", "second", 60_000)
    assert lead("other", "second", 60_000)
    scripts.client.pexpire(key, 10_000)
    assert lead("gauges", "first", 60_000)
    assert 50_000 < scripts.client.pttl(key) <= 60_000
    scripts.client.delete(key)  # as its end does
    assert lead("gauges", "second", 60_000)
    assert not lead("gauges", "first", 60_000)
