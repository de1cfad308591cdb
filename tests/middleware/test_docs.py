"""The examples of the middleware's pages work as they stand."""

from __future__ import annotations

import re

import pytest

from broker import StreamsBroker
from tests.actors.conftest import application_broker as application_broker
from tests.processes import ROOT


def _example(page: str) -> str:
    text = (ROOT / "docs" / page).read_text("utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return str(block)


def test_correlation(application_broker: StreamsBroker, capsys: pytest.CaptureFixture[str]) -> None:
    exec(_example("correlation.md"), {})  # noqa: S102 - our own page
    assert capsys.readouterr().out == "order-4711 order-4711\n"
    assert application_broker.inspector.queue("maintenance-queue").ready == 1
