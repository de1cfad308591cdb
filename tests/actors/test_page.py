"""The examples of docs/jobs.md work as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from actors.settings import ApplicationSettings
from broker import StreamsBroker
from broker.settings import Settings
from tests.processes import ROOT


def _blocks(language: str) -> list[str]:
    page = (ROOT / "docs" / "jobs.md").read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def test_a_notification_is_sent_in_three_ways(application_broker: StreamsBroker) -> None:
    exec(_blocks("python")[0], {})  # noqa: S102 - our own page
    counts = application_broker.inspector.queue("notification-queue")
    assert (counts.ready, counts.scheduled) == (1, 2)


def test_a_job_type_of_ones_own_is_sent(application_broker: StreamsBroker) -> None:
    names: dict[str, Any] = {"__name__": "actors.reports"}
    exec(_blocks("python")[1], names)  # noqa: S102 - our own page
    try:
        names["make_report"].send(names["Report"](day="2026-05-01"))
        assert application_broker.inspector.queue("reports").ready == 1
    finally:
        del application_broker.actors["make_report"]


def test_the_settings_are_taken(tmp_path: Path) -> None:
    (text,) = _blocks("toml")
    (tmp_path / "settings.toml").write_text(text, encoding="utf-8")
    environ = {
        "HEADRACE_SETTINGS": str(tmp_path / "settings.toml"),
        "HEADRACE_ENV": "production",
    }
    settings = Settings.load(environ)
    assert settings.queue("notification-queue").concurrency == 20
    assert settings.queue("reports").attempts == 2
    assert ApplicationSettings.load({}, settings.application).smtp.host == "mail.internal"
