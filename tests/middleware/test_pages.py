"""The examples of docs/ run as they stand."""

from __future__ import annotations

import re
from typing import Any

import pytest

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from middleware.retries import PolicyRetries, RetryPolicy
from tests.conftest import NewBroker
from tests.processes import ROOT

PAGES = ["dead-letters", "validation", "retries", "records", "deduplication"]


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_run(
    page: str, valkey_server: EmbeddedValkey, new_broker: NewBroker
) -> None:
    broker = new_broker("streams", valkey_server.url)
    broker.add_middleware(PolicyRetries(lambda queue: RetryPolicy()))
    assert isinstance(broker, StreamsBroker)
    names: dict[str, Any] = {"broker": broker, "__name__": page.replace("-", "_")}
    text = (ROOT / "docs" / f"{page}.md").read_text("utf-8")
    examples = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert examples
    for example in examples:
        exec(compile(example, page, "exec"), names)  # noqa: S102 - our own page
