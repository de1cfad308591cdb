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
    """The flow's tree, a line a step.

    A step that waits for several is drawn below the last of them; the others point to it by
    name. What undoes steps and what was sent at the end come last, if any of it was sent.
    """
    drawn_below = {
        following: step.number for step in record.steps for following in step.next
    }  # the last one wins
    lines = [f"{record.name}: {record.state}{_lasted(record)}"]
    lines += _branches(record, drawn_below, 0, "")
    sent = [each for each in record.steps if each.kind != "step" and each.released_at is not None]
    lines += [f"{each.kind}: {_line(each)}" for each in sent]
    if record.error is not None:
        lines.append(f"{record.failed_step}: {record.error}")
    return "\n".join(lines)


def _branches(
    record: FlowRecord, drawn_below: dict[int, int], parent: int, indent: str
) -> Iterator[str]:
    steps = [
        each
        for each in record.steps
        if each.kind == "step" and drawn_below.get(each.number, 0) == parent
    ]
    names = {each.number: each.name for each in record.steps}
    for step in steps:
        last = step is steps[-1]
        elsewhere = [names[other] for other in step.next if drawn_below[other] != step.number]
        pointer = f"  \N{RIGHTWARDS ARROW} {', '.join(elsewhere)}" if elsewhere else ""
        yield f"{indent}{'└' if last else '├'}─ {_line(step)}{pointer}"
        below = indent + ("   " if last else "│  ")
        yield from _branches(record, drawn_below, step.number, below)


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
