"""A job that begins searches for no module: a search for one that is not there costs five looks
at the disk and more time than all else that the broker does for it."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec

import pytest
from dramatiq import Message

from broker import StreamsBroker
from broker.delivery import Delivery, Lease


class Searches(MetaPathFinder):
    """Asked first by every import of what is not loaded; finds nothing."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        self.names.append(fullname)
        return None


def test_a_job_begins_and_ends_without_a_search_for_a_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker = StreamsBroker(middleware=[])
    message: Message[None] = Message("default", "act", (), {}, {})
    searches = Searches()
    monkeypatch.setattr(sys, "meta_path", [searches, *sys.meta_path])
    delivery = Delivery(message, Lease(0, b"1-0", 1, "c"))
    broker.emit_before("process_message", delivery)
    broker.emit_after("process_message", delivery)
    assert searches.names == []
