"""The examples of the middleware's pages work as they stand."""

from __future__ import annotations

import re
from typing import Any

import pytest

from broker import StreamsBroker
from broker.failures import FailureKind
from middleware.notice import Notice
from middleware.notice_channels import ActorChannel
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


def test_failure_notifications(
    application_broker: StreamsBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {}
    exec(_example("failure-notifications.md"), names)  # noqa: S102 - our own page
    kind = FailureKind("retries_exhausted", "fail", "ValueError")
    notice = Notice.of("chatgenius", {"mail": {kind: 2}}).asdict()
    ActorChannel("notify_operators").send(application_broker, Notice.of("chatgenius", {}))
    assert application_broker.inspector.queue("operators").ready == 1
    names["notify_operators"](notice)
    assert capsys.readouterr().out.startswith("[chatgenius] 2 failures\n")
    del application_broker.actors["notify_operators"]
