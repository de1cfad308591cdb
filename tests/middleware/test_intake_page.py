"""The examples of docs/event-intake.md work as they stand."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from broker.embedded import EmbeddedValkey
from middleware.intake import EventIntake
from tests.conftest import NewBroker, StartWorker
from tests.processes import ROOT
from tests.waiting import eventually


def test_the_examples(
    own_server: Callable[..., EmbeddedValkey],
    new_broker: NewBroker,
    start_worker: StartWorker,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (ROOT / "docs/event-intake.md").read_text("utf-8")
    declare, look, again = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    broker: Any = new_broker("streams", own_server().url, middleware=[EventIntake()])
    names: dict[str, Any] = {"broker": broker}
    exec(declare, names)  # noqa: S102 - our own page
    start_worker(broker)
    fields = {"room": "7", "author": "ada", "text": "look, @grace"}
    broker.client.xadd("chatgenius:messages", fields)
    broker.client.xadd("chatgenius:messages", {**fields, "room": "seven"})
    output: list[str] = []

    def printed() -> list[str]:
        output.extend(capsys.readouterr().out.splitlines())
        return output

    eventually(printed, lambda lines: lines == ["ada wrote look, @grace"], what="the job")
    eventually(broker.inspector.intake.aside, bool, what="what is set aside")
    eventually(
        lambda: broker.inspector.intake.sources()[0].pending, lambda held: held == 0, what="the end"
    )
    exec(look, names)  # noqa: S102
    first, second = capsys.readouterr().out.splitlines()
    assert first == "chatgenius:messages 0 0 None"
    assert "ValidationError" in second
    exec(again, names)  # noqa: S102
    eventually(
        printed, lambda lines: sorted(lines)[1:] == ["ada wrote look, @grace"] * 2, what="a replay"
    )


@pytest.fixture
def server_kind() -> str:
    """The page does not care which server it is."""
    return "valkey"
