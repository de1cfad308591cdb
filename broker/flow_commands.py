"""One typed method a script of the flows, and the reading of their state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import redis

from broker import clients, packing
from broker.errors import queue_refusal, translated
from broker.keys import QueueKeys
from broker.moving import move_letter
from broker.outbox import Letter, Place
from broker.runner import Runner
from broker.server import unix_ms

_STORED_PER_CALL = 500
#: How long messages lie there for a flow whose start never comes; seconds.
_ABANDONED_AFTER_S = 86_400
_BRANCHES_PER_CALL = 500
_LONGEST_BLOCK_MS = 30_000


@dataclass(frozen=True, slots=True)
class NewFlow:
    """A flow on its way into its home queue, everything packed as the scripts read it."""

    id: str
    home: str
    time_limit_ms: int
    roots: bytes
    hooks: bytes
    about: bytes
    steps: Sequence[bytes]
    #: By number; those of one step follow each other.
    messages: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Beginning:
    """A message of a flow that is about to run."""

    place: Place
    #: First number and count of the messages whose results it takes.
    given: Sequence[tuple[int, int]]
    #: Also when the flow was cancelled or has run out of time.
    always: bool


@dataclass(frozen=True, slots=True)
class Begun:
    """What a message of a flow finds when it begins."""

    #: Empty: the flow is forgotten.
    state: str
    #: False: the flow was stopped, or is forgotten, and nothing has begun.
    may_run: bool
    ms_left: int | None
    #: JSON; None for a message without a result.
    results: list[bytes | None]


@dataclass(frozen=True, slots=True)
class FlowFound:
    """What is known of a flow; an empty hash for one that is not."""

    fields: dict[str, bytes]
    failed: dict[int, str]
    #: A bit for each message, the highest of a byte first: whether its end was counted.
    ended: bytes

    def has_ended(self, number: int) -> bool:
        """Whether the end of this message was counted."""
        index, bit = divmod(number, 8)
        return index < len(self.ended) and bool(self.ended[index] & 0x80 >> bit)


class FlowCommands(Runner):
    """The transitions of flows; all of them may be repeated.

    Every method raises Dramatiq's connection errors.
    """

    def start(self, flow: NewFlow, *, inner: bool = False) -> list[Letter]:
        """Write a flow and release its first steps; a repeat changes nothing.

        Raises:
          QueueClosed: its home takes nothing more, but for what is ``inner``: started by a job.
        """
        k = self.keys(flow.home)
        numbered = list(enumerate(flow.messages))
        while len(numbered) > _STORED_PER_CALL:
            self._store(f"{k.flow_prefix}{flow.id}:messages", numbered[:_STORED_PER_CALL])
            numbered = numbered[_STORED_PER_CALL:]
        keys = (k.flow_prefix, k.outbox, k.flow_deadlines, k.job_prefix, k.events)
        about = (flow.roots, flow.hooks, flow.about, _pack_numbered(numbered), int(inner))
        try:
            rows = self._run(
                *("start_flow", (*keys, k.control, k.wake, *k.ready), flow.id, flow.time_limit_ms),
                *about,
                *flow.steps,
            )
        except redis.ResponseError as error:
            if (refusal := queue_refusal(error, flow.home)) is not None:
                raise refusal from None
            raise
        return _letters(rows)

    def _store(self, key: str, numbered: Sequence[tuple[int, bytes]]) -> None:
        with translated():
            self.client.hset(key, items=[part for row in numbered for part in row])
            self.client.expire(key, _ABANDONED_AFTER_S)

    def begin(self, home: str, messages: Sequence[Beginning]) -> list[Begun]:
        """Note that messages of flows with this home are about to run; find what they are given."""
        packed = [
            packing.pack_array(
                (
                    *(m.place.flow_id, m.place.step, m.always),
                    *(number for span in m.given for number in span),
                )
            )
            for m in messages
        ]
        rows = self._run("begin_steps", (self.keys(home).flow_prefix,), *packed)
        return [
            Begun(
                state=state.decode(),
                may_run=bool(may_run),
                ms_left=None if left < 0 else left,
                results=[each or None for each in results],
            )
            for state, may_run, left, *results in rows
        ]

    def reopen(self, place: Place) -> tuple[bool, list[Letter]]:
        """Take back the failure of a step's message that was redriven, if it stopped the flow.

        False: the message may not run, as its flow can't go on.
        """
        keys = _of_steps(self.keys(place.home))
        args = (place.flow_id, place.step, place.number)
        may_run, rows = self._run("reopen_flow", keys, *args)
        return bool(may_run), _letters(rows)

    def advance(self, place: Place, end: bytes) -> list[Letter]:
        """Count the end of a message, once; returns what is left to do."""
        keys = _of_steps(self.keys(place.home))
        args = (place.flow_id, place.step, place.number, end)
        return _letters(self._run("advance_flow", keys, *args))

    def release(self, home: str, flow_id: str, step: int) -> tuple[int, list[Letter]]:
        """Send a part of a large step; returns how many messages are left, and letters."""
        keys = _of_steps(self.keys(home))
        left, rows = self._run("release_branches", keys, flow_id, step, _BRANCHES_PER_CALL)
        return left, _letters(rows)

    def receive(self, queue: str, parcel: bytes) -> int:
        """Take messages into a queue; returns how many were not there yet."""
        k = self.keys(queue)
        keys = (k.scheduled, k.scheduled_messages, k.job_prefix, k.events, k.control, k.wake)
        return int(self._run("receive", (*keys, *k.ready), parcel))

    def move_letter(self, queue: str, to: str, id: bytes) -> None:
        """Move a dead letter of the queue to those of another one."""
        self.register(to)
        move_letter(self._run, self.client, self.keys(queue), self.keys(to), id, queue)

    def stop(self, home: str, flow_id: str, reason: str) -> tuple[bool, list[Letter]]:
        """Let a flow begin nothing more; False if it has ended or ends for another reason."""
        k = self.keys(home)
        keys = (k.flow_prefix, k.outbox, k.flow_deadlines)
        stopped, rows = self._run("stop_flow", keys, flow_id, reason)
        return bool(stopped), _letters(rows)

    def letters(self, queue: str, limit: int) -> tuple[int, list[Letter]]:
        """The server's time, unix ms, and the oldest letters of an outbox."""
        with translated():
            now_ms = unix_ms(self.client.time())
            entries = self.client.xrange(self.keys(queue).outbox, count=limit)
        names = (b"kind", b"to", b"body")
        rows = [[id, *(fields[name] for name in names)] for id, fields in entries]
        return now_ms, _letters(rows)

    def forget(self, queue: str, letters: Sequence[Letter]) -> None:
        """Drop letters that are done."""
        with translated():
            self.client.xdel(self.keys(queue).outbox, *(letter.id for letter in letters))

    def deadlines(self, queue: str, limit: int) -> list[tuple[str, int]]:
        """The flows whose time is over first, with when, unix ms."""
        with translated():
            rows = self.client.zrange(
                self.keys(queue).flow_deadlines, 0, limit - 1, withscores=True
            )
        return [(id.decode(), int(due)) for id, due in rows]

    def find(self, home: str, flow_id: str) -> FlowFound:
        """Everything but messages and results."""
        flow = self.keys(home).flow_prefix + flow_id
        with translated():
            fields = self.client.hgetall(flow)
            failed = self.client.hgetall(f"{flow}:failed") if fields else {}
            ended = self.client.get(f"{flow}:ended") if fields else None
        return FlowFound(
            {name.decode(): value for name, value in fields.items()},
            {int(number): error.decode("utf-8", "replace") for number, error in failed.items()},
            ended or b"",
        )

    def results(self, home: str, flow_id: str, first: int, count: int) -> list[bytes | None]:
        """The results of some messages, JSON; None for none."""
        key = f"{self.keys(home).flow_prefix}{flow_id}:results"
        with translated():
            return list(self.client.hmget(key, range(first, first + count)))

    def wait(self, home: str, flow_id: str, timeout_ms: int) -> None:
        """Block until the flow has ended, or so long."""
        prefix = self.keys(home).flow_prefix
        if not self._run("await_flow", (prefix,), flow_id):
            return
        key = f"{prefix}{flow_id}:over"
        block_ms = min(timeout_ms, _LONGEST_BLOCK_MS)
        with translated():
            client = clients.derive(self.client, socket_timeout=block_ms / 1000 + 5)
            with client:
                client.xread({key: "0"}, block=block_ms)


def _of_steps(k: QueueKeys) -> tuple[str, ...]:
    """The keys of what goes from one step to the next."""
    return (k.flow_prefix, k.outbox, k.job_prefix, k.events, k.control, k.wake, *k.ready)


def _letters(rows: Sequence[list[bytes]]) -> list[Letter]:
    return [Letter.read(row) for row in rows]


def _pack_numbered(numbered: Sequence[tuple[int, bytes]]) -> bytes:
    return packing.pack_array([part for row in numbered for part in row])
