"""The examples of docs/pipelines.md work as they stand."""

from __future__ import annotations

import re
from typing import Any

import dramatiq
import pytest

from broker.embedded import EmbeddedValkey
from pipelines.tree import draw
from tests.conftest import StartWorker
from tests.processes import ROOT
from tests.waiting import PATIENCE_S

PAGE = (ROOT / "docs/pipelines.md").read_text("utf-8")
TIMEOUT_MS = int(PATIENCE_S * 1000)


def test_the_examples(
    valkey_server: EmbeddedValkey,
    namespace: str,
    start_worker: StartWorker,
    capsys: pytest.CaptureFixture[str],
) -> None:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    app, start, fail = (text for language, text in blocks if language == "python")
    shown = [text for language, text in blocks if language == ""]
    names: dict[str, Any] = {"URL": valkey_server.url, "NAMESPACE": namespace}
    before = dramatiq.broker.global_broker
    try:
        exec(app, names)  # noqa: S102 - our own page
        broker = names["broker"]
        start_worker(broker)
        for program, output in ((start, shown[0]), (fail, shown[2])):
            exec(program, names)  # noqa: S102
            broker.join("orders", timeout=TIMEOUT_MS)
            assert sorted(capsys.readouterr().out.splitlines()) == sorted(output.splitlines())
        tree = draw(names["flows"].get(names["flow_id"]))
        assert re.sub(r"\d+ ms", "ms", tree) == re.sub(r"\d+ ms", "ms", shown[1].rstrip())
    finally:
        dramatiq.broker.global_broker = before


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target


@pytest.fixture
def server_kind() -> str:
    """The page does not care which server it is."""
    return "valkey"
