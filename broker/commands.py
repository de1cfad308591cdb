"""The transitions of messages, one typed method a script, and whatever else scripts do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
import redis

from broker import packing
from broker.delivery import Lease
from broker.errors import queue_refusal
from broker.keys import GROUP, QueueKeys
from broker.letter_commands import LetterCommands
from broker.limit_commands import LimitCommands
from broker.new_message import NewMessage
from broker.notice_commands import NoticeCommands
from broker.operator_commands import OperatorCommands
from broker.outbox import Letter
from broker.outcome import Settled
from broker.record_commands import RecordCommands
from broker.retention import Keep
from broker.scripts import Argument
from broker.settlement import Settlement
from broker.workers import unseen

_pack = packing.pack_array
_ALL = Keep()
_REAPED_PER_CALL = 500
#: An enumeration looks a value up in a microsecond, which each job would pay.
_SETTLED = {settled.value: settled for settled in Settled}


class Handed(msgspec.Struct, frozen=True):
    """One entry as handed over; ``fields`` is flat."""

    lease: Lease
    fields: list[bytes]
    #: It is encrypted, and its message has ended or was never enqueued: not to be run.
    replay: bool = False

    def field(self, name: bytes) -> bytes:
        """The value of a field; nothing if there is none."""
        names = self.fields[::2]
        return self.fields[2 * names.index(name) + 1] if name in names else b""

    def noted(self) -> Handed:
        """The same with no more than its record is told of it; its content may be large."""
        fields = [b"id", self.field(b"id"), b"actor", self.field(b"actor")]
        if b"sealed" in self.fields[::2]:
            fields += (b"sealed", b"")
        return msgspec.structs.replace(self, fields=fields)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one fetch brought. ``due_in_ms`` is None when nothing is scheduled."""

    deliveries: list[Handed]
    due_in_ms: int | None
    #: The server's time, unix ms.
    now_ms: int
    #: The queue is paused or limited: take entries through fetch only.
    gated: bool
    #: Those of ``taken`` that are replays.
    replays: list[Handed]


#: A level, and a cursor in its pending entries.
Position: TypeAlias = tuple[int, bytes]
BEGINNING: Position = (0, b"0-0")


@dataclass(frozen=True, slots=True)
class Renewed:
    """What a renewal found out; the other leases hold on."""

    lost: list[Lease]
    #: Of those that hold on: whoever runs them is to end them.
    cancelled: list[Lease]


@dataclass(frozen=True, slots=True)
class Doomed:
    """A delivery that its claimant is to bury: the message was delivered too often."""

    lease: Lease
    message_id: str
    actor: str
    #: When it was enqueued, as the entry says it.
    at: str


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What one bounded reclaim did; ``position`` is None when nothing is left to look at."""

    position: Position | None
    released: int
    #: Buried, or cancelled while they ran.
    ended: int
    doomed: list[Doomed]


class Commands(RecordCommands, LetterCommands, LimitCommands, NoticeCommands, OperatorCommands):
    """Everything that scripts do to the queues of a namespace, run through one client.

    Every method raises Dramatiq's connection errors (see :func:`broker.errors.translated`).
    """

    def enqueue(
        self,
        queue: str,
        token: str,
        messages: Iterable[NewMessage],
        *,
        max_depth: int = 0,
        inner: bool = False,
    ) -> list[str]:
        """Make messages ready; a repeat with the same token changes nothing.

        Returns for each the id it is known by: its own, or the id of the message that
        holds its deduplication key.

        Raises:
          QueueFull: with them the queue would hold more than ``max_depth``; 0 is any number.
          QueueClosed: it takes nothing more, but for what is ``inner``: sent by a job.
        """
        k = self.keys(queue)
        # The levels in use only: every key costs, here and in the server.
        streams: dict[int, int] = {}
        packed = [
            packing.pack_texts(
                (
                    m.message_id,
                    streams.setdefault(m.level, len(streams)),
                    m.level,
                    m.packed_claim,
                    m.successor,
                    m.recorded,
                    m.fields,
                )
            )
            for m in messages
        ]
        keys = [k.wake, k.control, k.dedup, k.lapsing, k.job_prefix, k.events]
        keys += [k.ready[level] for level in streams]
        if max_depth:
            keys += [key for level, key in enumerate(k.ready) if level not in streams]
            keys.append(k.scheduled)
        return self._let_in(
            queue, max_depth, "enqueue", keys, token, max_depth, int(inner), *packed
        )

    def schedule(
        self,
        queue: str,
        token: str,
        delay_ms: int,
        messages: Iterable[NewMessage],
        *,
        max_depth: int = 0,
        inner: bool = False,
    ) -> list[str]:
        """Put messages aside for ``delay_ms`` by the server's clock; else as :meth:`enqueue`."""
        k = self.keys(queue)
        packed = [
            _pack(
                (
                    m.message_id,
                    m.packed_claim,
                    m.successor,
                    m.recorded,
                    m.claim is not None and m.claim.replaces,
                    m.actor,
                    packing.pack(m.fields, m.level),
                )
            )
            for m in messages
        ]
        keys = (
            *(k.scheduled, k.scheduled_messages, k.wake, k.dedup, k.lapsing),
            *(k.job_prefix, k.events, k.recent("cancelled"), k.control),
            *(k.ready if max_depth else ()),
        )
        return self._let_in(
            queue, max_depth, "schedule", keys, token, delay_ms, max_depth, int(inner), *packed
        )

    def _let_in(
        self, queue: str, max_depth: int, name: str, keys: Sequence[str], *args: Argument
    ) -> list[str]:
        try:
            known = self._run(name, keys, *args)
        except redis.ResponseError as error:
            if (refusal := queue_refusal(error, queue, max_depth)) is not None:
                raise refusal from None
            raise
        return [id.decode() for id in known]

    def fetch(
        self,
        queue: str,
        consumer: str,
        count: int,
        *,
        lowest_first: bool,
        suspects: int,
        taken: Sequence[Handed] = (),
        tell: bool = True,
        signals: Sequence[bytes],
    ) -> Fetched:
        """Promote what is due and take up to ``count`` entries, ``suspects`` of them suspects.

        ``taken`` is what the consumer has already: their records are told that they have begun.
        Those of what comes for the first time are told if ``tell``; else a later fetch does so
        or their settlements.
        """
        k = self.keys(queue)
        keys = (
            *(k.scheduled, k.scheduled_messages, k.control, k.wake, k.dead, k.dead_messages),
            *(k.dedup, k.job_prefix, k.events, k.recent("dead"), k.outbox, k.lapsing),
            *k.ready,
        )
        noted = _pack([(it.lease.level, it.lease.entry_id, it.noted().fields) for it in taken])
        fixed = (consumer, count, int(lowest_first), suspects, noted, int(tell))
        now, due, gated, rows, replays = self._run("fetch", keys, *fixed, *signals)
        handed = [
            Handed(Lease(level, id, deliveries, consumer), fields, bool(replay))
            for level, id, deliveries, fields, replay in rows
        ]
        due_in_ms = None if due < 0 else max(0, due - now)
        return Fetched(handed, due_in_ms, now, bool(gated), [taken[index - 1] for index in replays])

    def settle(
        self,
        queue: str,
        settlements: Sequence[Settlement],
        completed: Keep = _ALL,
        deliver: Callable[[str, list[Letter]], None] | None = None,
    ) -> list[Settled]:
        """End deliveries in one round trip; a stale one changes nothing.

        ``completed`` says which records of completed jobs stay. ``deliver`` is given the letters
        that were written; without it they are left to others.
        """
        k = self.keys(queue)
        keys = (
            *(k.scheduled, k.scheduled_messages, k.dead, k.dead_messages),
            *(k.control, k.wake, k.dedup, k.job_prefix, k.events),
            *(k.recent("completed"), k.recent("dead"), k.recent("cancelled")),
            *(k.flow_prefix, k.outbox, k.lapsing, *k.ready),
        )
        packed = (each.packed() for each in settlements)
        replies, letters = self._run("settle", keys, *completed.bounds, *packed)
        if letters and deliver is not None:
            deliver(queue, [Letter.read(row) for row in letters])
        return [_SETTLED[reply] for reply in replies]

    def renew(self, queue: str, leases: Sequence[tuple[Lease, str]]) -> Renewed:
        """Renew the leases of messages, given with their ids."""
        k = self.keys(queue)
        packed = [
            _pack((lease.level, lease.entry_id, lease.count, lease.consumer, message_id))
            for lease, message_id in leases
        ]
        lost, cancelled = self._run("renew", (k.job_prefix, *k.ready), *packed)
        return Renewed(
            [leases[index - 1][0] for index in lost], [leases[index - 1][0] for index in cancelled]
        )

    def reclaim(
        self,
        queue: str,
        lease_ms: int,
        max_deliveries: int,
        limit: int,
        position: Position,
        *,
        claimant: str = "",
        told_of: Sequence[str] = (),
    ) -> Reclaimed:
        """Take up to ``limit`` deliveries whose lease has expired, from ``position`` on.

        What is to be buried of the actors in ``told_of`` is left to the claimant.
        """
        k = self.keys(queue)
        fixed = (lease_ms, max_deliveries, limit, *position, claimant)
        level, cursor, released, ended, claimed = self._run(
            "reclaim", (*_hand_back(k), *k.ready), *fixed, *told_of
        )
        doomed = [
            Doomed(Lease(level, id, count, claimant), message.decode(), actor.decode(), at.decode())
            for level, id, count, message, actor, at in claimed
        ]
        return Reclaimed(None if level < 0 else (level, cursor), released, ended, doomed)

    def reclaim_consumer(
        self,
        queue: str,
        level: int,
        consumer: str,
        max_deliveries: int,
        limit: int,
        *,
        told_of: Sequence[str] = (),
    ) -> tuple[int, int]:
        """Take what a vanished consumer held; returns the numbers released and ended.

        What is to be buried of the actors in ``told_of`` stays until its lease has expired.
        """
        k = self.keys(queue)
        fixed = (consumer, max_deliveries, limit, level)
        released, ended = self._run(
            "reclaim_consumer", (*_hand_back(k), k.ready[level]), *fixed, *told_of
        )
        return released, ended

    def reap(self, queue: str, idle_ms: int) -> int:
        """Forget consumers unseen for ``idle_ms`` that hold nothing; returns how many.

        Thousands go in several calls, so that none of them is long.
        """
        k = self.keys(queue)
        streams = (k.wake, *k.ready)
        gone = [
            _pack((number - 1, name))
            for number, name, held in unseen(self.client, GROUP, streams, idle_ms)
            if streams[number] == k.wake or not held
        ]
        return sum(
            int(self._run("reap", streams, *gone[start : start + _REAPED_PER_CALL]))
            for start in range(0, len(gone), _REAPED_PER_CALL)
        )

    def leave(self, queue: str, consumer: str) -> None:
        """Forget a consumer that reads no more wherever on the queue it holds nothing."""
        k = self.keys(queue)
        streams = range(-1, len(k.ready))
        self._run("reap", (k.wake, *k.ready), *(_pack((stream, consumer)) for stream in streams))


def _hand_back(k: QueueKeys) -> tuple[str, ...]:
    return (
        *(k.dead, k.dead_messages, k.wake, k.dedup, k.job_prefix),
        *(k.events, k.recent("dead"), k.recent("cancelled"), k.outbox, k.lapsing),
    )
