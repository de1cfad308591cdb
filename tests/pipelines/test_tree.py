"""The drawing of a flow."""

from __future__ import annotations

from typing import Any

from pipelines.state import FlowRecord, StepRecord
from pipelines.tree import draw


def step(number: int, name: str, state: Any, **more: Any) -> StepRecord:
    given = {"kind": "step", "next": (), "size": 1, "first": 0, "done": 0, "failed": 0}
    given |= {"released_at": None, "started_at": None, "ended_at": None}
    return StepRecord(number, name, state=state, **{**given, "errors": {}, "queues": (), **more})


def test_each_step_is_drawn_below_what_it_waits_for() -> None:
    steps = (
        step(1, "top", "completed", next=(2, 3), started_at=10, ended_at=25),
        step(2, "left", "failed", next=(4,), size=3, done=2, failed=1, started_at=5, ended_at=6),
        step(3, "right", "running", next=(4,)),
        step(4, "bottom", "waiting"),
        step(5, "alone", "skipped"),
        step(6, "undo top", "completed", kind="undo", released_at=30),
        step(7, "on_finish", "waiting", kind="hook"),
    )
    times: dict[str, Any] = {"started_at": 1, "finished_at": 43, "deadline_at": None}
    record = FlowRecord(
        "id", "diamond", "failed", **times, failed_step="left", error="no", correlation_id=None,
        steps=steps,
    )  # fmt: skip
    assert (
        draw(record)
        == """\
diamond: failed in 42 ms
├─ ✓ top  completed  15 ms
│  ├─ ✗ left  failed  2 of 3, 1 failed  1 ms  → bottom
│  └─ ▸ right  running
│     └─ · bottom  waiting
└─ · alone  skipped
undo: ✓ undo top  completed
left: no"""
    )
