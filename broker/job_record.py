"""What is known of one job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from broker import entry
from broker.facts import trace_id
from broker.outbox import flow_of
from broker.record_commands import Found


class State(Enum):
    """Where a job is in its life. The last three are final: only a redrive begins anew."""

    QUEUED = "queued"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    #: It failed and waits for its next attempt.
    RETRYING = "retrying"
    COMPLETED = "completed"
    DEAD = "dead"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (State.COMPLETED, State.DEAD, State.CANCELLED)


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job at one moment. Times are unix ms by the server's clock; None: not yet, or unknown."""

    id: str
    queue: str
    state: State
    actor: str
    #: Runs that have begun; those that a crash cut short are counted in `deliveries` only.
    attempts: int
    #: Deliveries of the present entry: 1, more when earlier ones ended unsettled.
    deliveries: int
    #: When it was sent, by the sender's clock.
    queued_at: int | None
    #: When its time came or comes, for one that was scheduled or is retried.
    due_at: int | None
    #: When its last run began.
    started_at: int | None
    finished_at: int | None
    #: The consumer that runs it or ran it last; empty for none yet.
    worker: str
    #: From 0 to 1, as the job itself said; None if it did not.
    progress: float | None
    note: str
    #: Why its last attempt failed; empty when none did.
    error: str
    correlation_id: str | None
    trace_id: str | None
    #: Somebody wants it cancelled and its worker has not ended it yet.
    cancel_requested: bool
    #: The flow that it is a step of; None for no flow.
    flow_id: str | None = None

    @property
    def wait_ms(self) -> int | None:
        """How long it waited for its last run, from when it was sent or due; never negative."""
        since = max(self.queued_at or 0, self.due_at or 0)
        return None if self.started_at is None or not since else max(0, self.started_at - since)

    @property
    def run_ms(self) -> int | None:
        """How long its last run took."""
        if self.started_at is None or self.finished_at is None:
            return None
        return max(0, self.finished_at - self.started_at)


def record_of(queue: str, id: str, found: Found) -> JobRecord | None:
    """The record; None if none is kept and only the message is known to exist."""
    texts = {
        name.decode(): value.decode("utf-8", "replace") for name, value in found.record.items()
    }
    state = _state(found, texts)
    if found.place == "ended" and "finished" not in texts:
        return _bare(queue, id, state)
    options = _options(found.fields)
    runs = int(texts.get("attempts", 0))
    return JobRecord(
        id=id,
        queue=queue,
        state=state,
        actor=texts.get("actor") or found.fields.get(b"actor", b"").decode("utf-8", "replace"),
        attempts=runs + 1 if state is State.RUNNING else runs,
        deliveries=found.deliveries or int(texts.get("deliveries", 0)),
        queued_at=_ms(texts.get("queued") or found.fields.get(b"at", b"").decode()),
        due_at=found.due_ms if found.due_ms is not None else _ms(texts.get("due")),
        started_at=_ms(texts.get("started")) if state is not State.QUEUED else None,
        finished_at=_ms(texts.get("finished")),
        worker=found.consumer or texts.get("worker", ""),
        progress=float(texts["progress"]) if "progress" in texts else None,
        note=texts.get("note", ""),
        error=texts.get("error", ""),
        correlation_id=texts.get("correlation") or options.get("correlation_id"),
        trace_id=texts.get("trace") or trace_id(options.get("traceparent", "")) or None,
        cancel_requested="cancel" in texts and not state.final,
        flow_id=flow_of(texts.get("flow", "")),
    )


def _state(found: Found, texts: Mapping[str, str]) -> State:
    if found.place == "ended":
        return State(texts["state"])
    if found.place == "running":
        return State.RUNNING
    if texts.get("error"):
        return State.RETRYING
    return State.SCHEDULED if found.place == "scheduled" else State.QUEUED


def _bare(queue: str, id: str, state: State) -> JobRecord:
    """What is left of a job of which no record is kept, for as long as its id is remembered."""
    return JobRecord(
        id=id,
        queue=queue,
        state=state,
        actor="",
        attempts=0,
        deliveries=0,
        queued_at=None,
        due_at=None,
        started_at=None,
        finished_at=None,
        worker="",
        progress=None,
        note="",
        error="",
        correlation_id=None,
        trace_id=None,
        cancel_requested=False,
    )


def _options(fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    try:
        options = entry.load_json(fields.get(b"options", b"{}"))
    except ValueError:
        return {}
    return options if isinstance(options, dict) else {}


def _ms(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None
