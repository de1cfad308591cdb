"""Jobs whose course is interfered with: limited, cancelled, deduplicated, redriven.

They run when nothing else does. What is seen of them meanwhile is kept for the checks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
from dramatiq import Message

from actors.files import process_file
from actors.notifications import send_notification
from actors.payloads import FileJob, Notification
from bench.demo.jobs import CONTROL_QUEUE, endless, limited, welcome
from bench.demo.journal import History
from bench.demo.pictures import ImageCase, image_cases
from bench.demo.users import Brokers
from bench.demo.workload import ExpectedPush, Workload
from broker import DeadFilter, JobRecord, State, StreamsBroker
from broker.dead_letter import DeadLetter
from broker.events import Event, reading
from middleware.correlation import correlation

CHAIN = "demo-control"
"""The correlation id of all of them, and of what they send."""
LIMITED = 10
SENDS = 5
"""How often the deduplicated push is sent."""
DELAY_MS = 1_500
LATE_REASON: Final = "retries_exhausted"
_VARIANT = 95
_NEVER_MS = 600_000
_STEP = "a limit, a cancelled job, a repeated send, a redrive"

Wait = Callable[[str, Callable[[], bool]], None]
"""Waits, under a name to show, until it holds or the demo's time is over."""


@dataclass
class Observed:
    """What was seen of the jobs, while they ran and at the end."""

    states: dict[State, list[State | None]] = field(default_factory=dict)
    """The state a job was in to that moment -> what its record said."""
    sent_ids: list[str] = field(default_factory=list)
    """What each send of the deduplicated push returned."""
    cancelled: bool = False
    cancel_asked_ms: int = 0
    letter: DeadLetter | None = None
    redriven: int = 0
    records: dict[str, JobRecord | None] = field(default_factory=dict)
    events: dict[str, list[str]] = field(default_factory=dict)
    """The names of a job's events, in their order."""
    log: list[dict[str, Any]] = field(default_factory=list)
    """The workers' lines that are JSON."""
    stored: bytes = b""
    """Everything that the server has written to its append-only file."""


@dataclass
class Control:
    """The messages, and what was observed of them."""

    limited: list[Message[Any]]
    endless: Message[Any]
    pushes: list[Message[Any]]
    late: Message[Any]
    """It needs a file that is not there at first."""
    late_case: ImageCase
    parent: Message[Any]
    """It sends another one, and fails once."""
    observed: Observed = field(default_factory=Observed)

    @property
    def messages(self) -> list[Message[Any]]:
        """All that run: of the pushes only the first is to be one."""
        return [*self.limited, self.endless, self.pushes[0], self.late, self.parent]

    def drive(self, brokers: Brokers, storage: Path, history: History, wait: Wait) -> None:
        """Send and interfere; what does not happen in time is for the checks to name."""
        with correlation(CHAIN):
            self._send(brokers)
        wait(_STEP, lambda: bool(history.noted_ms(self.endless.message_id, "started")))
        self._cancel(brokers)
        wait(_STEP, lambda: self._state(brokers.viewer, self.late) is State.RETRYING)
        self._see(brokers.viewer, State.RETRYING, [self.late])
        brokers.operator.jobs.promote(self.late)
        wait(_STEP, lambda: self._state(brokers.viewer, self.late) is State.DEAD)
        self._redrive(brokers, storage)
        wait(_STEP, lambda: all(self._ended(brokers.viewer, message) for message in self.messages))
        self._see(brokers.viewer, State.COMPLETED, [*self.limited, self.pushes[0], self.late])
        self._see(brokers.viewer, State.CANCELLED, [self.endless])

    def gather(
        self, broker: StreamsBroker, workload: Workload, log: Path, server_folder: Path
    ) -> None:
        """What is there at the end, of these jobs and of all others, once the workers are gone."""
        found, messages = self.observed, [*self.messages, *(job.message for job in workload.jobs)]
        messages += self.pushes[1:]
        records = broker.jobs.get_many(messages)
        found.records = dict(zip((m.message_id for m in messages), records, strict=True))
        for queue in sorted({message.queue_name for message in self.messages}):
            for event in _events(broker, queue):
                found.events.setdefault(event.message_id, []).append(event.name)
        found.log = read_log(log)
        files = sorted(path for path in server_folder.rglob("*.aof") if path.is_file())
        found.stored = b"".join(path.read_bytes() for path in files)

    def _send(self, brokers: Brokers) -> None:
        """The limited ones while their queue is paused, so that all compete at once."""
        brokers.operator.inspector.pause(CONTROL_QUEUE)
        try:
            brokers.producer.enqueue_many([self.endless, *self.limited])
            self._see(brokers.viewer, State.QUEUED, self.limited)
        finally:
            brokers.operator.inspector.resume(CONTROL_QUEUE)
        for push in self.pushes:
            self.observed.sent_ids.append(brokers.producer.enqueue(push, delay=DELAY_MS).message_id)
        self._see(brokers.viewer, State.SCHEDULED, self.pushes[:1])
        brokers.producer.enqueue_many([self.late, self.parent])

    def _cancel(self, brokers: Brokers) -> None:
        self._see(brokers.viewer, State.RUNNING, [self.endless])
        self.observed.cancel_asked_ms = time.time_ns() // 1_000_000
        self.observed.cancelled = brokers.operator.jobs.cancel(self.endless)

    def _redrive(self, brokers: Brokers, storage: Path) -> None:
        """Look at the letter, bring what was missing, put the job back."""
        queue = self.late.queue_name
        self._see(brokers.viewer, State.DEAD, [self.late])
        letter = brokers.viewer.inspector.letter(queue, self.late.message_id)
        self.observed.letter = None if letter is None else brokers.viewer.codec.revealed(letter)
        source = storage / self.late_case.file_id
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_bytes(self.late_case.source)
        where = DeadFilter(reason=LATE_REASON, actor=self.late.actor_name)
        self.observed.redriven = brokers.operator.inspector.redrive(queue, where=where)

    def _see(self, broker: StreamsBroker, state: State, messages: list[Message[Any]]) -> None:
        self.observed.states[state] = [
            None if record is None else record.state for record in broker.jobs.get_many(messages)
        ]

    def _state(self, broker: StreamsBroker, message: Message[Any]) -> State | None:
        record = broker.jobs.get(message)
        return None if record is None else record.state

    def _ended(self, broker: StreamsBroker, message: Message[Any]) -> bool:
        state = self._state(broker, message)
        return state is not None and state.final


def add_to(workload: Workload) -> Control:
    """The jobs; the push that is to arrive is added to what the workload expects."""
    pushes = [_push(number) for number in range(SENDS)]
    first = pushes[0]
    workload.expected.pushes.append(ExpectedPush(first.message_id, _body(0)))
    case = image_cases(_VARIANT)[0]
    file = FileJob(file_id=case.file_id, operation="resize", options=dict(case.options))
    return Control(
        limited=[limited.message(number) for number in range(LIMITED)],
        endless=endless.message(),
        pushes=pushes,
        # Its second attempt waits until somebody lets it run, so each state can be seen.
        late=process_file.message_with_options(
            args=(file,), max_retries=1, min_backoff=_NEVER_MS, max_backoff=_NEVER_MS
        ),
        late_case=case,
        parent=welcome.message("user-control"),
    )


def _push(number: int) -> Message[Any]:
    content = _body(number)
    notification = Notification(type="push", user_id=content.pop("userId"), payload=content)
    return send_notification.message_with_options(
        args=(notification,), deduplication_key="demo:once"
    )


def _body(number: int) -> dict[str, Any]:
    title, body = "Only once", f"Send {number}"
    return {"userId": "user-once", "title": title, "body": body, "data": {"send": number}}


def _events(broker: StreamsBroker, queue: str) -> Iterator[Event]:
    with reading(broker.commands, queue) as read:
        last = "0-0"
        while events := read(last, 1):
            yield from events
            last = events[-1].id


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines that are JSON objects; Dramatiq's main process writes a few others."""
    lines = []
    for line in path.read_bytes().splitlines():
        # A worker that is killed may leave half a line.
        with suppress(msgspec.DecodeError):
            found = msgspec.json.decode(line)
            lines += [found] if isinstance(found, dict) else []
    return lines
