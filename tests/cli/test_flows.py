"""`headrace flows show`: a flow as a tree."""

from __future__ import annotations

from typing import Any

from dramatiq import Message

from broker import StreamsBroker
from broker.cli.exits import Exit
from pipelines import flows
from pipelines.flow import Flow
from tests.cli.conftest import Headrace


def _message(actor: str) -> Message[Any]:
    return Message("work", actor, (), {}, {})


def test_a_flow_is_a_tree_of_its_steps(headrace: Headrace, broker: StreamsBroker) -> None:
    flow = Flow("report").step("load", _message("load"))
    flow.parallel("parts", [_message("part"), _message("part")], after="load")
    flow.step("join", _message("join"), after=["load", "parts"])
    id = flows.start(flow, broker=broker)
    lines = headrace("flows", "show", id).out.splitlines()
    assert lines[0] == f"report {id}: running"
    assert lines[1:] == [
        "└── load: running",
        "    ├── parts: waiting; 0 of 2 done, 0 failed",
        "    └── join: waiting; after load, parts",
    ]
    told = headrace("flows", "show", id, "--json").json
    assert [step["name"] for step in told["steps"]] == ["load", "parts", "join"]


def test_a_flow_that_is_not_there_is_not_found(headrace: Headrace) -> None:
    assert headrace("flows", "show", "work.nobody").status == Exit.NOT_FOUND
