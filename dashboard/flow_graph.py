"""A flow as a graph: its steps in columns, each to the right of what it waits for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Final, Protocol

from broker.broker import StreamsBroker

_WIDE: Final = 180
_HIGH: Final = 56
_APART: Final = 50


class Step(Protocol):
    """What is drawn of a step; :class:`pipelines.state.StepRecord` has it."""

    @property
    def number(self) -> int: ...
    @property
    def next(self) -> tuple[int, ...]: ...


class ReadFlow(Protocol):
    """Finds a flow's record by its id; None if there is none."""

    def __call__(self, flow_id: str, *, broker: StreamsBroker) -> Any: ...


def reader() -> ReadFlow | None:
    """What reads flows: installed packages name it as ``headrace.flows``. None: nothing does."""
    for place in entry_points(group="headrace.flows"):
        found: ReadFlow = place.load()
        return found
    return None


@dataclass(frozen=True, slots=True)
class Box:
    """A step at its place, in pixels."""

    step: Any
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Graph:
    boxes: list[Box]
    #: From the right edge of a box to the left one of the next: x1, y1, x2, y2.
    lines: list[tuple[int, int, int, int]]
    width: int
    height: int
    box_width: int = _WIDE
    box_height: int = _HIGH


def drawn(steps: Sequence[Step]) -> Graph:
    """The graph; a flow has no circles."""
    columns = _columns(steps)
    rows: dict[int, int] = {}
    boxes: dict[int, Box] = {}
    for step in steps:
        column = columns[step.number]
        row = rows[column] = rows.get(column, -1) + 1
        boxes[step.number] = Box(step, column * (_WIDE + _APART), row * (_HIGH + 20))
    lines = [
        (
            boxes[step.number].x + _WIDE,
            boxes[step.number].y + _HIGH // 2,
            boxes[number].x,
            boxes[number].y + _HIGH // 2,
        )
        for step in steps
        for number in step.next
        if number in boxes
    ]
    return Graph(
        list(boxes.values()),
        lines,
        max((box.x + _WIDE for box in boxes.values()), default=0),
        max((box.y + _HIGH for box in boxes.values()), default=0),
    )


def _columns(steps: Sequence[Step]) -> dict[int, int]:
    """How many steps come before each, by the longest way."""
    columns = {step.number: 0 for step in steps}
    for _ in steps:
        moved = False
        for step in steps:
            for number in step.next:
                if number in columns and columns[number] <= columns[step.number]:
                    columns[number] = columns[step.number] + 1
                    moved = True
        if not moved:
            break
    return columns
