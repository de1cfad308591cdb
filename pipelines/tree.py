"""A flow as text: each step below those it waits for, with its state and its times."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pipelines.state import FlowRecord, StepRecord

_MARKS: Final = {
    "waiting": "\N{MIDDLE DOT}",
    "running": "\N{BLACK RIGHT-POINTING SMALL TRIANGLE}",
    "completed": "\N{CHECK MARK}",
    "failed": "\N{BALLOT X}",
    "cancelled": "\N{HORIZONTAL BAR}",
    "skipped": "\N{MIDDLE DOT}",
}


def draw(record: FlowRecord) -> str:
    """The flow's tree, a line a step; several lines for one that waits for several.

    A step is drawn below the last of those it waits for; the others point to it by name.
    What undoes steps and what was sent at the end come last, if any of it was sent.
    """
    lines = [f"{record.name}: {record.state}{_lasted(record)}"]
    children = _children(record)
    roots = children.get(0, [])
    lines += _branches(roots, children, "")
    sent = [each for each in record.steps if each.kind != "step" and each.released_at is not None]
    lines += [f"{each.kind}: {_line(each)}" for each in sent]
    if record.error is not None:
        lines.append(f"{record.failed_step}: {record.error}")
    return "\n".join(lines)


def _children(record: FlowRecord) -> dict[int, list[StepRecord]]:
    """By the number of the step under which it is drawn; 0 for none."""
    parents: dict[int, int] = {}
    for step in record.steps:
        for following in step.next:
            parents[following] = step.number  # the last one wins: it is drawn latest
    children: dict[int, list[StepRecord]] = {}
    for step in record.steps:
        if step.kind == "step":
            children.setdefault(parents.get(step.number, 0), []).append(step)
    return children


def _branches(
    steps: list[StepRecord], children: dict[int, list[StepRecord]], indent: str
) -> Iterator[str]:
    for step in steps:
        last = step is steps[-1]
        yield f"{indent}{'└' if last else '├'}─ {_line(step)}"
        below = indent + ("   " if last else "│  ")
        yield from _branches(children.get(step.number, []), children, below)


def _line(step: StepRecord) -> str:
    parts = [f"{_MARKS[step.state]} {step.name}", step.state]
    if step.size > 1:
        failed = f", {step.failed} failed" if step.failed else ""
        parts.append(f"{step.done} of {step.size}{failed}")
    if step.run_ms is not None:
        parts.append(f"{step.run_ms} ms")
    return "  ".join(parts)


def _lasted(record: FlowRecord) -> str:
    if record.finished_at is None:
        return ""
    return f" in {record.finished_at - record.started_at} ms"
