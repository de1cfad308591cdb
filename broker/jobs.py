"""The records of jobs: what state each is in, how it went, and how to wait for it or cancel it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import redis
from dramatiq.message import Message

from broker import entry
from broker.commands import Commands
from broker.errors import HeadraceError, InvalidOption, translated
from broker.events import newest_event, reading
from broker.facts import trace_id
from broker.keys import GROUP, QueueKeys
from broker.record_commands import Found

_PAGE: Final = 50
_FINAL_ONES_REMEMBERED: Final = 1_000
_BEGINNING: Final = "-"


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


class JobUnknown(HeadraceError, LookupError):
    """There is no record of this job: it never was, its record is gone, or none is kept."""

    def __init__(self, message_id: str) -> None:
        super().__init__(f"message_id: no record of job {message_id!r}")
        self.message_id = message_id


class WaitTimeout(HeadraceError, TimeoutError):
    """A job did not end in time; it goes on."""

    def __init__(self, record: JobRecord, timeout_ms: int) -> None:
        state = record.state.value
        super().__init__(f"job {record.id!r} is {state} after a wait of {timeout_ms} ms")
        self.record = record


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


@dataclass(frozen=True, slots=True)
class Page:
    """Some records, and where the next page begins; None when this was the last one."""

    records: list[JobRecord]
    cursor: str | None


class Jobs:
    """Reads records and cancels jobs, over all queues of a namespace.

    A job is named by its id, in any queue, or by its message, which names the queue too and
    saves a round trip for each other queue. Every method raises Dramatiq's connection errors.
    """

    def __init__(self, commands: Commands, queues: Callable[[], list[str]]) -> None:
        self._commands = commands
        self._queues = queues
        self._final = _FinalOnes()

    def get(self, job: str | Message[Any]) -> JobRecord | None:
        """The job's record; None if there is none.

        A final state never changes back, also when a replica that lags behind is asked.
        """
        return self.get_many([job])[0]

    def get_many(self, jobs: Iterable[str | Message[Any]]) -> list[JobRecord | None]:
        """The records of jobs, in their order; one round trip a queue."""
        asked = list(jobs)
        found: dict[str, JobRecord] = {}
        open_ids = {job for job in asked if isinstance(job, str)}
        queues = self._queues() if open_ids else sorted({m.queue_name for m in _messages(asked)})
        for queue in queues:
            ids = sorted(
                open_ids | {m.message_id for m in _messages(asked) if m.queue_name == queue}
            )
            for record in self._read(queue, ids):
                found[record.id] = record
                open_ids.discard(record.id)
        return [found.get(_id(job)) for job in asked]

    def _read(self, queue: str, ids: Sequence[str]) -> list[JobRecord]:
        if not ids:
            return []
        records = []
        for id, found in zip(ids, self._commands.jobs(queue, ids), strict=True):
            record = None if found is None else _record(queue, id, found)
            token = b"" if found is None else found.record.get(b"token", b"")
            record = self._final.latest(queue, id, record, token)
            if record is not None:
                records.append(record)
        return records

    def list(
        self, queue: str, state: State | str, cursor: str | None = None, limit: int = _PAGE
    ) -> Page:
        """Some of the jobs of a queue that are in this state.

        Final ones come latest first, waiting ones in the order in which they will run. Jobs
        move while one reads, so one may be missing from the pages or come twice; a page may
        hold fewer than ``limit``.

        Raises:
          InvalidOption: there is no such state, or the cursor is not from a page before.
        """
        try:
            state = State(state)
        except ValueError:
            known = ", ".join(each.value for each in State)
            raise InvalidOption("state", state, f"must be one of {known}") from None
        listing = _Listing(self._commands, queue, limit)
        ids, following = listing.page(state, cursor)
        records = [record for record in self._read(queue, ids) if record.state is state]
        order = {id: index for index, id in enumerate(ids)}
        return Page(sorted(records, key=lambda record: order[record.id]), following)

    def ended(self, queue: str) -> dict[State, int]:
        """How many records of ended jobs a queue keeps, by their state."""
        keys, states = self._commands.keys(queue), [state for state in State if state.final]
        client: Any = self._commands.client
        with translated(), client.pipeline(transaction=False) as pipe:
            for state in states:
                pipe.zcard(keys.recent(state.value))
            return dict(zip(states, pipe.execute(), strict=True))

    def wait(self, job: str | Message[Any], timeout: int = 60_000) -> JobRecord:
        """Wait up to ``timeout`` ms for the job to end; returns its record then.

        It blocks on the queue's event stream and asks nothing meanwhile.

        Raises:
          WaitTimeout: it has not ended.
          JobUnknown: there is no record of it.
        """
        deadline = time.monotonic() + timeout / 1000
        queue = self._known(job).queue
        last = newest_event(self._commands, queue)
        record = self._known(job)  # what ended before that event is seen here, a later end below
        with reading(self._commands, queue) as read:
            while not record.state.final:
                left_ms = int((deadline - time.monotonic()) * 1000)
                if left_ms <= 0:
                    raise WaitTimeout(record, timeout)
                events = read(last, left_ms)
                if events:
                    last = events[-1].id
                # The stream is capped: of very many events the awaited one may be gone.
                if len(events) > 1 or any(event.message_id == record.id for event in events):
                    record = self._known(job)
        return record

    def _known(self, job: str | Message[Any]) -> JobRecord:
        record = self.get(job)
        if record is None:
            raise JobUnknown(_id(job))
        return record

    def cancel(self, job: str | Message[Any]) -> bool:
        """Cancel a job; False if it has ended or is unknown.

        One that waits is cancelled when this returns. In one that runs
        :class:`~broker.cancellation.JobCancelled` is raised, within a second; if it returns
        all the same, it has completed. It is not tried again in any case.
        """
        queues = [job.queue_name] if isinstance(job, Message) else self._queues()
        return any(
            self._commands.cancel(queue, _id(job)) in ("cancelled", "requested") for queue in queues
        )

    def promote(self, job: str | Message[Any]) -> bool:
        """Let a job that waits for its time, or for its next attempt, run now.

        False if it is not scheduled.
        """
        queues = [job.queue_name] if isinstance(job, Message) else self._queues()
        return any(self._commands.promote(queue, _id(job)) for queue in queues)


def _messages(jobs: Iterable[str | Message[Any]]) -> list[Message[Any]]:
    return [job for job in jobs if isinstance(job, Message)]


def _id(job: str | Message[Any]) -> str:
    return job if isinstance(job, str) else job.message_id


class _FinalOnes:
    """The final records that were handed out lately: an older state read later is not believed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: OrderedDict[tuple[str, str], tuple[bytes, JobRecord]] = OrderedDict()

    def latest(
        self, queue: str, id: str, record: JobRecord | None, token: bytes
    ) -> JobRecord | None:
        with self._lock:
            known = self._seen.get((queue, id))
            if record is None:
                return None
            if record.state.final:
                self._seen[queue, id] = (token, record)
                self._seen.move_to_end((queue, id))
                if len(self._seen) > _FINAL_ONES_REMEMBERED:
                    self._seen.popitem(last=False)
            elif known is not None and known[0] == token:  # another token: it was sent again
                return known[1]
            return record


class _Listing:
    """One page of the ids of a queue's jobs, by state."""

    def __init__(self, commands: Commands, queue: str, limit: int) -> None:
        self._client: Any = commands.client
        self._keys: QueueKeys = commands.keys(queue)
        self._limit = limit

    def page(self, state: State, cursor: str | None) -> tuple[list[str], str | None]:
        with translated():
            match state:
                case State.COMPLETED | State.DEAD | State.CANCELLED:
                    return self._ranked(self._keys.recent(state.value), cursor, latest_first=True)
                case State.SCHEDULED | State.RETRYING:
                    return self._ranked(self._keys.scheduled, cursor, latest_first=False)
                case State.QUEUED:
                    return self._levels(cursor, self._waiting)
                case State.RUNNING:
                    return self._levels(cursor, self._in_flight)

    def _ranked(
        self, index: str, cursor: str | None, *, latest_first: bool
    ) -> tuple[list[str], str | None]:
        start = _number(cursor)
        ids = self._client.zrange(index, start, start + self._limit - 1, desc=latest_first)
        following = str(start + len(ids)) if len(ids) == self._limit else None
        return [id.decode() for id in ids], following

    def _levels(
        self,
        cursor: str | None,
        read: Callable[[str, str, int], list[tuple[bytes, str | None]]],
    ) -> tuple[list[str], str | None]:
        """Go through the levels, the highest first; a cursor is ``level:entry id``."""
        level, start = _level_and_entry(cursor, len(self._keys.ready) - 1)
        ids: list[str] = []
        while level >= 0:
            rows = read(self._keys.ready[level], start, self._limit - len(ids))
            ids += [id for _, id in rows if id]
            if len(ids) >= self._limit or (rows and len(rows) >= self._limit):
                return ids, f"{level}:{rows[-1][0].decode()}"
            level, start = level - 1, _BEGINNING
        return ids, None

    def _waiting(self, stream: str, start: str, limit: int) -> list[tuple[bytes, str | None]]:
        entries = self._client.xrange(stream, start, "+", count=limit)
        return [(entry_id, _message_id(fields)) for entry_id, fields in entries]

    def _in_flight(self, stream: str, start: str, limit: int) -> list[tuple[bytes, str | None]]:
        try:
            pending = self._client.xpending_range(stream, GROUP, start, "+", limit)
        except redis.ResponseError as error:
            if not str(error).startswith("NOGROUP"):  # no worker has looked at this level yet
                raise
            return []
        ids = [row["message_id"] for row in pending]
        pipe = self._client.pipeline(transaction=False)
        for entry_id in ids:
            pipe.xrange(stream, entry_id, entry_id)
        found = pipe.execute() if ids else []
        return [
            (entry_id, _message_id(entries[0][1]) if entries else None)
            for entry_id, entries in zip(ids, found, strict=True)
        ]


def _number(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdigit()):
        raise InvalidOption("cursor", cursor, "must come from the page before")
    return int(cursor)


def _level_and_entry(cursor: str | None, highest: int) -> tuple[int, str]:
    if cursor is None:
        return highest, _BEGINNING
    level, separator, entry_id = cursor.partition(":")
    if not (separator and level.isdigit() and int(level) <= highest):
        raise InvalidOption("cursor", cursor, "must come from the page before")
    return int(level), f"({entry_id}"


def _message_id(fields: Mapping[bytes, bytes]) -> str | None:
    id = fields.get(b"id")
    return None if id is None else id.decode("utf-8", "replace")


def _record(queue: str, id: str, found: Found) -> JobRecord | None:
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
