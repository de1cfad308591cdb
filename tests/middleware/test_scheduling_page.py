"""The examples of docs/scheduling.md work as they stand."""

from __future__ import annotations

import re
from typing import Any

import dramatiq
import pytest

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from tests.conftest import NewBroker
from tests.processes import ROOT


def test_the_examples(
    valkey_server: EmbeddedValkey,
    new_broker: NewBroker,
    namespace: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    new_broker("streams", valkey_server.url)  # which is the global one again after the test
    text = (ROOT / "docs/scheduling.md").read_text("utf-8")
    declare, at_run_time = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"URL": valkey_server.url, "NAMESPACE": namespace}
    exec(declare, names)  # noqa: S102 - our own page
    broker: StreamsBroker = names["broker"]
    assert dramatiq.get_broker() is broker
    names["nightly_report"].options["periodic"].validate(None)  # periodiq's first look
    exec(at_run_time, names)  # noqa: S102
    assert capsys.readouterr().out.splitlines() == [
        "digest:friday 0 17 * * fri False None",
        "nightly_report 0 3 * * * True None",
    ]
    assert broker.inspector.queue("default").ready == 1
    assert [info.schedule.name for info in broker.inspector.schedules.list()] == ["nightly_report"]
    broker.close()
