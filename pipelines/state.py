"""A flow as a record: its state, its steps' states and their timings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import msgspec

from broker.flow_commands import FlowFound
from broker.flow_step import FINAL, FlowState, outcome

#: waiting: for other steps. skipped: the flow ended without it. The others are final, but for a
#: failed step whose dead letter is redriven.
StepState: TypeAlias = Literal["waiting", "running", "completed", "failed", "cancelled", "skipped"]


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step at one moment. Times are unix ms by the server's clock; None: not yet."""

    number: int
    name: str
    #: undo: sent while the flow is compensating. hook: sent at its end.
    kind: Literal["step", "undo", "hook"]
    state: StepState
    #: The numbers of the steps that come after it.
    next: tuple[int, ...]
    #: Messages: one, or one for each branch; and the number of the first one in the flow.
    size: int
    first: int
    #: Of those, so many have completed and so many have failed.
    done: int
    failed: int
    released_at: int | None
    #: When the first of its messages began; of a running step perhaps not known yet.
    started_at: int | None
    ended_at: int | None
    #: Of the messages that have failed, by their numbers in the flow.
    errors: dict[int, str]
    #: Where its messages run.
    queues: tuple[str, ...]

    @property
    def run_ms(self) -> int | None:
        """From its first begin to its last end."""
        if self.started_at is None or self.ended_at is None:
            return None
        return max(0, self.ended_at - self.started_at)


@dataclass(frozen=True, slots=True)
class FlowRecord:
    """A flow at one moment. Times as for :class:`StepRecord`."""

    id: str
    name: str
    state: FlowState
    started_at: int
    finished_at: int | None
    #: When its time is over; None for no limit.
    deadline_at: int | None
    #: The step that failed first, and why.
    failed_step: str | None
    error: str | None
    correlation_id: str | None
    #: By number: the steps in the order of the definition, then what undoes them, then hooks.
    steps: tuple[StepRecord, ...]

    @property
    def final(self) -> bool:
        """Whether it has ended. A failed flow may be resumed."""
        return self.state in FINAL

    def step(self, name: str) -> StepRecord:
        """The step of this name.

        Raises:
          KeyError: there is none.
        """
        for each in self.steps:
            if each.name == name:
                return each
        raise KeyError(name)


class _Defined(msgspec.Struct, frozen=True):
    kind: Literal["step", "undo", "hook"]
    name: str
    first: int
    size: int
    next: tuple[int, ...]
    queues: tuple[str, ...]


_decode = msgspec.msgpack.Decoder(_Defined).decode


def read(flow_id: str, found: FlowFound) -> FlowRecord | None:
    """The record of what was found; None when there is no such flow."""
    fields = found.fields
    if "state" not in fields:
        return None
    end = outcome(flow_id, found)
    numbers = sorted(int(name) for name in fields if name.isdecimal())
    return FlowRecord(
        id=flow_id,
        name=end.name,
        state=end.state,
        started_at=int(fields["started"]),
        finished_at=_int(fields, "finished"),
        deadline_at=_int(fields, "deadline"),
        failed_step=end.failed_step,
        error=end.error,
        correlation_id=fields["correlation"].decode() if "correlation" in fields else None,
        steps=tuple(_step(found, number, final=end.state in FINAL) for number in numbers),
    )


def _step(found: FlowFound, number: int, *, final: bool) -> StepRecord:
    defined = _decode(found.fields[str(number)])
    own: dict[str, Any] = {
        name: found.fields.get(f"{number}:{name}")
        for name in ("state", "done", "failed", "released", "started", "ended", "held")
    }
    state = "waiting" if own["state"] is None else own["state"].decode()
    if state == "dead":
        state = "failed"
    if final and state == "waiting":
        state = "skipped"
    elif final and own["held"] is not None:  # the rest of its branches was not sent
        state = "failed" if own["failed"] else "skipped"
    numbers = range(defined.first, defined.first + defined.size)
    return StepRecord(
        number=number,
        name=defined.name,
        kind=defined.kind,
        state=state,  # type: ignore[arg-type]  # the scripts write no other
        next=defined.next,
        size=defined.size,
        first=defined.first,
        done=int(own["done"] or 0),
        failed=int(own["failed"] or 0),
        released_at=_optional(own["released"]),
        started_at=_optional(own["started"]),
        ended_at=_optional(own["ended"]),
        queues=defined.queues,
        errors={n: error for n, error in found.failed.items() if n in numbers},
    )


def _int(fields: dict[str, bytes], name: str) -> int | None:
    return _optional(fields.get(name))


def _optional(value: bytes | None) -> int | None:
    return None if value is None else int(value)
