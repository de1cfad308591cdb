"""One typed method a script: the only caller of the scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, Literal, TypeAlias, get_args

import redis

from broker import entry
from broker.delivery import Lease, Slot
from broker.direct import direct, pipeline
from broker.entry import Fields
from broker.errors import QueueFull, translated
from broker.failures import FailureKind
from broker.keys import QueueKeys, cancel_channel, leader_key, notices_key, queues_key
from broker.limits import KeyLimits, QueueLimit
from broker.moving import move_letter
from broker.outbox import Letter
from broker.outcome import Bury, Cancel, Done, Outcome, Park, Release, Retry, Settled
from broker.retention import Keep
from broker.scripts import Client, script
from broker.scripts import names as script_names

_pack = entry.pack_array
_ALL = Keep()


@dataclass(frozen=True, slots=True)
class Claim:
    """A deduplication key, and how long a message holds it."""

    key: str
    #: The longest; 0: as long as the message waits or runs.
    ttl_ms: int = 0
    #: It is held for the whole ttl, also when the message has ended before.
    outlives: bool = False
    #: A scheduled message that holds it is replaced.
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message on its way into a queue, encoded."""

    message_id: str
    actor: str
    level: int
    claim: Claim | None
    #: It replaces a message of the same id that this process is running.
    successor: bool
    #: Whether a record of it is kept.
    recorded: bool
    fields: Fields


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of one delivery."""

    lease: Lease
    message_id: str
    deduplication_key: str
    outcome: Outcome
    #: What the record will say, field, value, ..., the actor first; None: no record is kept.
    facts: list[str] | None = None
    #: Why this attempt failed; empty when it did not.
    error: str = ""


@dataclass(frozen=True, slots=True)
class Redriven:
    """A dead letter on its way back; ``key`` is its name among the dead."""

    key: str
    #: Empty for what is no message.
    message_id: str
    level: int
    deduplication_key: str
    fields: Fields | list[bytes]
    #: Its place in a flow; empty for none.
    flow: str = ""


@dataclass(frozen=True, slots=True)
class Handed:
    """One entry as handed over; ``fields`` is flat."""

    lease: Lease
    fields: list[bytes]

    def field(self, name: bytes) -> bytes:
        """The value of a field; nothing if there is none."""
        names = self.fields[::2]
        return self.fields[2 * names.index(name) + 1] if name in names else b""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one fetch brought. ``due_in_ms`` is None when nothing is scheduled."""

    deliveries: list[Handed]
    due_in_ms: int | None
    #: The queue is paused or limited: take entries through fetch only.
    gated: bool


#: Where messages are outside the streams.
Kept: TypeAlias = Literal["scheduled", "dead"]
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
class Found:
    """What the server knows of one job."""

    #: ended, waiting, scheduled or running.
    place: str
    record: dict[bytes, bytes]
    #: The entry's fields; empty when the job has ended.
    fields: dict[bytes, bytes]
    #: Who runs it; empty for nobody.
    consumer: str
    deliveries: int
    due_ms: int | None


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


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """One queue at one moment. ``due`` are scheduled messages whose time has come.

    ``oldest_age_ms`` is how long the oldest entry has been there, in flight or not.
    """

    name: str
    ready: int
    scheduled: int
    due: int
    in_flight: int
    dead: int
    oldest_age_ms: int | None
    paused: bool
    consumers: int


class Turn(Enum):
    """Whether a job may begin under the limits of its keys."""

    STARTED = b"started"
    #: It is scheduled for the time at which it may.
    PARKED = b"parked"
    #: Somebody wants it cancelled.
    CANCELLED = b"cancelled"
    #: Another delivery owns the entry: this worker had lost its lease.
    STALE = b"stale"


@dataclass(frozen=True, slots=True)
class Start:
    """The answer to a job that wants to begin, at ``now_us`` by the server's clock."""

    turn: Turn
    now_us: int
    #: When a parked one comes back, unix ms; else 0.
    due_ms: int
    #: What it holds from now on, if it has a concurrency key and started.
    slot: Slot | None


@dataclass(frozen=True, slots=True)
class LetterHead:
    """A dead letter without its message. ``reason`` is empty when it can't be read."""

    id: str
    died_at_ms: int
    #: Of evidence and message together.
    size_bytes: int
    reason: str = ""
    error: str = ""
    deliveries: int = 0
    level: int = 0
    deduplication_key: str = ""
    actor: str = ""
    error_type: str = ""

    @property
    def position(self) -> LetterPosition:
        return self.died_at_ms, self.id.encode("utf-8", "surrogateescape")


#: A place among the dead: time of death, then id.
LetterPosition: TypeAlias = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class LetterAges:
    """Times since death in ms, both included; measured from ``now_ms``, None for the call's own."""

    now_ms: int | None = None
    oldest: int | None = None
    youngest: int = 0


class Commands:
    """The transitions of every queue of a namespace, run through one client.

    Every method raises Dramatiq's connection errors (see :func:`broker.errors.translated`).
    """

    def __init__(
        self, client: Client, namespace: str, max_priority: int, *, repeat: bool = True
    ) -> None:
        """``repeat``: a command whose reply was lost is sent again, as the client is set up.

        Not for a worker's: a repeated fetch strands what the first one took.
        """
        self.client = client
        self._scripts = direct(client, repeat=repeat)
        self._namespace = namespace
        self._max_priority = max_priority
        self.keys = lru_cache(maxsize=None)(self._keys)

    def _keys(self, queue: str) -> QueueKeys:
        return QueueKeys(self._namespace, queue, self._max_priority)

    def _run(self, name: str, keys: Sequence[str], *args: str | bytes | int) -> Any:
        with translated():
            return script(name).run(self._scripts, keys, args)

    def register(self, queue: str) -> None:
        """Note the queue's name, so that operators find it."""
        with translated():
            self.client.execute_command("SADD", queues_key(self._namespace), queue)

    def enqueue(
        self, queue: str, token: str, messages: Iterable[NewMessage], *, max_depth: int = 0
    ) -> list[str]:
        """Make messages ready; a repeat with the same token changes nothing.

        Returns for each the id it is known by: its own, or the id of the message that
        holds its deduplication key.

        Raises:
          QueueFull: with them the queue would hold more than ``max_depth``; 0 is any number.
        """
        k = self.keys(queue)
        # The levels in use only: every key costs, here and in the server.
        streams: dict[int, int] = {}
        packed = [
            entry.pack_texts(
                (
                    m.message_id,
                    streams.setdefault(m.level, len(streams)),
                    m.level,
                    pack_claim(m.claim),
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
        with _refusing(queue, max_depth):
            known = self._run("enqueue", keys, token, max_depth, *packed)
        return [id.decode() for id in known]

    def schedule(
        self,
        queue: str,
        token: str,
        delay_ms: int,
        messages: Iterable[NewMessage],
        *,
        max_depth: int = 0,
    ) -> list[str]:
        """Put messages aside for ``delay_ms`` by the server's clock; else as :meth:`enqueue`."""
        k = self.keys(queue)
        packed = [
            _pack(
                (
                    m.message_id,
                    pack_claim(m.claim),
                    m.successor,
                    m.recorded,
                    m.claim is not None and m.claim.replaces,
                    m.actor,
                    entry.pack(m.fields, m.level),
                )
            )
            for m in messages
        ]
        keys = (
            *(k.scheduled, k.scheduled_messages, k.wake, k.dedup, k.lapsing),
            *(k.job_prefix, k.events, k.recent("cancelled")),
            *(k.ready if max_depth else ()),
        )
        with _refusing(queue, max_depth):
            known = self._run("schedule", keys, token, delay_ms, max_depth, *packed)
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
        signals: Sequence[bytes],
    ) -> Fetched:
        """Promote what is due and take up to ``count`` entries, ``suspects`` of them suspects.

        ``taken`` is what the consumer got by a blocked read: their records are told.
        """
        k = self.keys(queue)
        keys = (
            *(k.scheduled, k.scheduled_messages, k.control, k.wake, k.dead, k.dead_messages),
            *(k.dedup, k.job_prefix, k.events, k.recent("dead"), k.outbox, *k.ready),
        )
        noted = _pack([(it.lease.level, it.lease.entry_id, it.fields) for it in taken])
        now, due, gated, rows = self._run(
            "fetch", keys, consumer, count, int(lowest_first), suspects, noted, *signals
        )
        handed = [
            Handed(Lease(level, id, deliveries, consumer), fields)
            for level, id, deliveries, fields in rows
        ]
        return Fetched(handed, None if due < 0 else max(0, due - now), bool(gated))

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
            *(k.flow_prefix, k.outbox, *k.ready),
        )
        packed = map(_pack_settlement, settlements)
        replies, letters = self._run("settle", keys, *_bounds(completed), *packed)
        if letters and deliver is not None:
            deliver(queue, [Letter.read(row) for row in letters])
        return [Settled(reply) for reply in replies]

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

    def cancel(self, queue: str, message_id: str) -> str:
        """Cancel a job; cancelled, requested (it runs), ended (before this) or unknown."""
        k = self.keys(queue)
        keys = (
            *(k.scheduled, k.scheduled_messages, k.dedup, k.job_prefix, k.events),
            *(k.recent("cancelled"), k.control, k.wake, k.outbox, *k.ready),
        )
        reply: bytes = self._run("cancel", keys, message_id, cancel_channel(self._namespace))
        return reply.decode()

    def promote(self, queue: str, message_id: str) -> bool:
        """Let a scheduled message run now; False if it is not scheduled."""
        k = self.keys(queue)
        return bool(self._run("promote", (k.scheduled, k.job_prefix, k.wake), message_id))

    def progress(
        self, queue: str, lease: Lease, message_id: str, progress: float, note: str
    ) -> bool:
        """Note how far a running job is; False if the lease is lost or no record is kept."""
        k = self.keys(queue)
        fence = (lease.entry_id, lease.count, lease.consumer)
        keys = (k.ready[lease.level], k.job_prefix)
        return bool(self._run("progress", keys, *fence, message_id, repr(progress), note))

    def jobs(self, queue: str, message_ids: Sequence[str]) -> list[Found | None]:
        """What is known of these jobs at one moment; None for those without a record."""
        k = self.keys(queue)
        keys = (k.scheduled, k.scheduled_messages, k.job_prefix, *k.ready)
        return [
            None if row is None else _found(row) for row in self._run("jobs", keys, *message_ids)
        ]

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

    def kept_ids(self, queue: str, kept: Kept, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """About ``count`` ids of what is kept; the next cursor is 0 at the end."""
        index, _ = self._kept(queue, kept)
        with translated():
            reply = self.client.execute_command("ZSCAN", index, cursor, "COUNT", count)
        following, scored = reply
        return int(following), [id for id, _ in scored]

    def kept_value(self, queue: str, kept: Kept, id: bytes) -> bytes | None:
        """A message outside the streams, packed; None when it is gone."""
        _, messages = self._kept(queue, kept)
        with translated():
            found = self.client.execute_command("HGET", messages, id)
        return None if found is None else bytes(found)

    def kept_sizes(self, queue: str) -> dict[Kept, tuple[int, int]]:
        """How many ids and how many messages are in each place outside the streams."""
        sizes: dict[Kept, tuple[int, int]] = {}
        for place in get_args(Kept):
            index, messages = self._kept(queue, place)
            with translated():
                ids, texts = pipeline(self.client, index, ("ZCARD", index), ("HLEN", messages))
            sizes[place] = (ids, texts)
        return sizes

    def refused_scripts(self) -> dict[str, str]:
        """Load every script; those that the server refuses, with its reason.

        Raises:
          AuthenticationRefused: this user may not load any.
        """
        client: Any = self.client
        refused: dict[str, str] = {}
        for name in script_names():
            try:
                with translated():
                    client.script_load(script(name).source)
            except redis.ResponseError as error:
                refused[name] = str(error)
        return refused

    def replace(self, queue: str, kept: Kept, id: bytes, before: bytes, after: bytes) -> bool:
        """Put another value in a kept one's place, if it is still that one."""
        _, messages = self._kept(queue, kept)
        return bool(self._run("replace", (messages,), id, before, after))

    def _kept(self, queue: str, kept: Kept) -> tuple[str, str]:
        k = self.keys(queue)
        if kept == "scheduled":
            return k.scheduled, k.scheduled_messages
        return k.dead, k.dead_messages

    def live(self, queue: str, message_ids: Sequence[str | bytes]) -> list[bool]:
        """For each message whether its record says that it has not ended."""
        keys = (self.keys(queue).job_prefix,)
        return [bool(live) for live in self._run("live", keys, *message_ids)]

    def reap(self, queue: str, idle_ms: int) -> int:
        """Forget consumers unseen for ``idle_ms`` that hold nothing; returns how many."""
        k = self.keys(queue)
        return int(self._run("reap", (k.wake, *k.ready), idle_ms))

    def redrive(self, queue: str, letters: Iterable[Redriven]) -> int:
        """Move dead letters back; returns how many of them were still there."""
        k = self.keys(queue)
        keys = (
            *(k.dead, k.dead_messages, k.control, k.wake, k.dedup, k.job_prefix),
            *(k.events, k.recent("dead"), *k.ready),
        )
        packed = [
            _pack(
                (
                    *(it.key, it.message_id, self._present(it.level)),
                    *(it.deduplication_key, it.fields, it.flow),
                )
            )
            for it in letters
        ]
        return int(self._run("redrive", keys, *packed))

    def _present(self, level: int) -> int:
        # max_priority may have been higher when the message was kept with its level.
        return min(level, self._max_priority)

    def purge(self, queue: str, limit: int) -> int:
        """Drop up to ``limit`` messages from each place but the dead letters; 0: none are left."""
        k = self.keys(queue)
        return int(
            self._run(
                "purge",
                (k.scheduled, k.scheduled_messages, k.dedup, k.job_prefix, k.outbox, *k.ready),
                limit,
            )
        )

    def sweep(self, queue: str, age_ms: int, count: int | None, limit: int) -> int:
        """Drop up to ``limit`` dead letters of at least ``age_ms`` or beyond the newest ``count``.

        Returns how many.
        """
        k = self.keys(queue)
        kept = -1 if count is None else count
        return int(self._run("sweep", (k.dead, k.dead_messages), age_ms, kept, limit))

    def take_letter_back(self, queue: str, id: str, to: str) -> str | None:
        """Move a dead letter to those of the queue that it belongs to; its id there."""
        name = id.encode("utf-8", "surrogateescape")
        moved = move_letter(self._run, self.client, self.keys(queue), self.keys(to), name, "")
        return None if moved is None else moved.decode("utf-8", "surrogateescape")

    def letters(
        self,
        queue: str,
        ages: LetterAges,
        after: LetterPosition | None,
        limit: int,
        *,
        newest_first: bool,
    ) -> tuple[int, list[LetterHead]]:
        """The server's time and up to ``limit`` letters that follow ``after``; none: the end."""
        k = self.keys(queue)
        offset = 0
        while True:  # more than one round when that many died in one millisecond
            now_ms, rows = self._run(
                "letters",
                (k.dead, k.dead_messages),
                ages.now_ms or 0,
                -1 if ages.oldest is None else ages.oldest,
                ages.youngest,
                -1 if after is None else after[0],
                int(newest_first),
                offset,
                limit,
            )
            heads = [_head(row) for row in rows]
            fresh = [
                head
                for head in heads
                if after is None
                or (head.position < after if newest_first else head.position > after)
            ]
            if fresh or len(heads) < limit:
                return now_ms, fresh
            offset += limit

    def forget(self, queue: str, state: str, kept: Keep, limit: int) -> int:
        """Drop up to ``limit`` records of jobs that ended so, beyond ``kept``; returns how many."""
        k = self.keys(queue)
        keys = (k.recent(state), k.job_prefix)
        return int(self._run("forget", keys, state, *_bounds(kept), limit))

    def lapse(self, queue: str, limit: int) -> int:
        """Free up to ``limit`` deduplication keys whose time is over; returns how many."""
        k = self.keys(queue)
        return int(self._run("lapse", (k.lapsing, k.dedup), limit))

    def inspect(self, queue: str) -> QueueInfo:
        """Counts of one queue, from one moment; all 0 for a queue nobody used."""
        k = self.keys(queue)
        now, ready, scheduled, due, in_flight, dead, oldest, paused, consumers = self._run(
            "inspect", (k.scheduled, k.dead, k.control, *k.ready)
        )
        return QueueInfo(
            name=queue,
            ready=ready,
            scheduled=scheduled,
            due=due,
            in_flight=in_flight,
            dead=dead,
            oldest_age_ms=None if oldest < 0 else max(0, now - oldest),
            paused=bool(paused),
            consumers=consumers,
        )

    def pause(self, queue: str) -> bool:
        """Hand nothing more over; False if the queue was paused already."""
        k = self.keys(queue)
        return bool(self._run("pause", (k.control, k.wake)))

    def resume(self, queue: str) -> bool:
        """End a pause; False if there was none."""
        k = self.keys(queue)
        return bool(self._run("resume", (k.control, k.wake)))

    def limit(self, queue: str, limit: QueueLimit) -> bool:
        """Set the queue's bounds, and lift those that are None; False if nothing changed."""
        k = self.keys(queue)
        bounds = (limit.global_concurrency, limit.rate)
        concurrency, rate = ("" if bound is None else str(bound) for bound in bounds)
        return bool(self._run("limit", (k.control, k.wake), concurrency, rate, limit.per_ms))

    def limit_of(self, queue: str) -> QueueLimit:
        """The queue's bounds as they are now."""
        names = ("global_concurrency", "rate", "rate_period")
        with translated():
            found = self.client.execute_command("HMGET", self.keys(queue).control, *names)
        concurrency, rate, per_ms = (None if value is None else int(value) for value in found)
        return QueueLimit(concurrency, rate, 1_000 if per_ms is None else per_ms)

    def start(
        self, queue: str, lease: Lease, message_id: str, limits: KeyLimits, slot_lease_ms: int
    ) -> Start:
        """Let a job begin under the limits of its keys, or park it until it may."""
        k = self.keys(queue)
        rate, concurrency = limits.rate, limits.concurrency
        rate_key, slots_key = limits.rate_key or "", limits.concurrency_key or ""
        keys = (
            *(k.scheduled, k.scheduled_messages, k.wake, k.ready[lease.level], k.job_prefix),
            *(k.limit(rate_key), k.rate_line(rate_key)),
            *(k.limit(slots_key), k.slots(slots_key), k.slots_line(slots_key), k.events),
        )
        turn, now_us, due_ms, holder = self._run(
            "start",
            keys,
            *(lease.level, lease.entry_id, lease.count, lease.consumer, message_id),
            *((0, 0) if rate is None else (rate.interval_us, rate.tolerance_us)),
            *(concurrency or 0, slot_lease_ms),
        )
        slot = Slot(slots_key, holder.decode()) if holder else None
        return Start(Turn(turn), now_us, due_ms, slot)

    def free_slot(self, queue: str, slot: Slot, concurrency: int) -> int:
        """Give a slot back; returns how many of those that wait for one were called."""
        k = self.keys(queue)
        line = k.slots_line(slot.key)
        keys = (k.slots(slot.key), line, k.scheduled, k.wake, k.job_prefix)
        return int(self._run("free_slot", keys, slot.holder, concurrency))

    def renew_slots(self, queue: str, slots: Sequence[Slot], lease_ms: int) -> list[Slot]:
        """Hold slots for another lease; returns those that are lost."""
        k = self.keys(queue)
        keys = [k.slots(slot.key) for slot in slots]
        lost = self._run("renew_slots", keys, lease_ms, *(slot.holder for slot in slots))
        return [slots[index - 1] for index in lost]

    def hold(self, queue: str, key: str, delay_ms: int) -> int:
        """Start no more jobs of a key for so long; returns until when, unix ms."""
        return int(self._run("hold", (self.keys(queue).limit(key),), delay_ms))

    def tally(self, queue: str, limit: int) -> bool:
        """Count about ``limit`` new dead letters into the queue's tally; True if more are there."""
        k = self.keys(queue)
        return bool(self._run("tally", (k.dead, k.dead_messages, k.tally), limit))

    def tallied(self, queue: str) -> dict[FailureKind, int]:
        """What was counted and not reported yet: some 200 kinds at the most."""
        with translated():
            pairs = self.client.execute_command("HGETALL", self.keys(queue).tally)
        if isinstance(pairs, dict):  # a cluster's client converts
            pairs = [part for pair in pairs.items() for part in pair]
        counts = zip(pairs[::2], pairs[1::2], strict=True)
        return {FailureKind.load(kind): int(n) for kind, n in counts if kind != b"cursor"}

    def count_failures(self, queue: str, counts: Mapping[FailureKind, int]) -> None:
        """Add to the queue's tally, or take off it what is negative."""
        packed = [
            _pack((kind.reason, kind.actor, kind.error_type, n)) for kind, n in counts.items()
        ]
        if packed:
            self._run("count", (self.keys(queue).tally,), *packed)

    def take_turn(self, holder: str, lease_ms: int, longest_ms: int) -> int:
        """Take the turn to send a notice: 0, or the ms until it may be taken."""
        key = notices_key(self._namespace)
        return int(self._run("take_turn", (key,), holder, lease_ms, longest_ms))

    def end_turn(self, holder: str, pause_ms: int) -> bool:
        """Give the turn back, the next one after ``pause_ms``; False if somebody else has it."""
        return bool(self._run("end_turn", (notices_key(self._namespace),), holder, pause_ms))

    def lead(self, what: str, name: str, lasts_ms: int) -> bool:
        """Be the one process of all that does ``what``, for ``lasts_ms``; False: another one is.

        Asked again in time by the same ``name``, it goes on.
        """
        return bool(self._run("lead", (leader_key(self._namespace, what),), name, lasts_ms))

    def trim_events(self, queue: str, max_length: int, limit: int) -> int:
        """Drop up to ``limit`` of the oldest events beyond ``max_length``; returns how many.

        Whole nodes of the stream only, which makes it cheap: some more may stay.
        """
        with translated():
            return int(
                self.client.execute_command(
                    *("XTRIM", self.keys(queue).events),
                    *("MAXLEN", "~", max_length, "LIMIT", limit),
                )
            )


def _head(row: list[Any]) -> LetterHead:
    id, died_at_ms, size, *values = row
    name = id.decode("utf-8", "surrogateescape")
    if not values:
        return LetterHead(name, died_at_ms, size)
    reason, error, _, deliveries, level, dedup, actor, error_type = (
        value.decode("utf-8", "replace") for value in values
    )
    return LetterHead(
        *(name, died_at_ms, size, reason, error, int(deliveries), int(level)),
        *(dedup, actor, error_type),
    )


def _hand_back(k: QueueKeys) -> tuple[str, ...]:
    return (
        *(k.dead, k.dead_messages, k.wake, k.dedup, k.job_prefix),
        *(k.events, k.recent("dead"), k.recent("cancelled"), k.outbox),
    )


def _bounds(kept: Keep) -> tuple[int, int]:
    count = -1 if kept.count is None else kept.count
    return count, -1 if kept.age_ms is None else kept.age_ms


def pack_claim(claim: Claim | None) -> tuple[str, int, bool] | bool:
    """As ``admit.lua`` reads it."""
    return False if claim is None else (claim.key, claim.ttl_ms, claim.outlives)


def _found(row: Sequence[Any]) -> Found:
    place, record, message, consumer, deliveries, due = row
    parts = entry.unpack(message) if isinstance(message, bytes) and message else message or []
    return Found(
        place.decode(),
        entry.to_mapping(record),
        dict(zip(parts[::2], parts[1::2], strict=False)),
        consumer.decode(),
        deliveries,
        None if due < 0 else due,
    )


@contextmanager
def _refusing(queue: str, max_depth: int) -> Iterator[None]:
    try:
        yield
    except redis.ResponseError as error:
        refusal, _, depth = str(error).partition(" ")
        if refusal != "FULL":
            raise
        raise QueueFull(queue, int(depth), max_depth) from None


def _pack_settlement(s: Settlement) -> bytes:
    lease = s.lease
    common = (
        *(lease.level, lease.entry_id, lease.count, lease.consumer),
        *(
            s.message_id,
            s.deduplication_key,
            False if s.facts is None else entry.packed(s.facts),
            s.error,
        ),
    )
    match s.outcome:
        case Done(result):
            return _pack(("done", *common, result))
        case Retry(delay_ms, level, fields):
            return _pack(("retry", *common, delay_ms, fields, entry.pack(fields, level), level))
        case Park(delay_ms):
            return _pack(("park", *common, delay_ms))
        case Release():
            return _pack(("release", *common))
        case Cancel():
            return _pack(("cancel", *common))
        case Bury(reason, error, actor, error_type, trail, notice, queue):
            return _pack(("bury", *common, reason, error, actor, error_type, trail, notice, queue))
        case outcome:
            raise TypeError(f"{outcome!r} is no settlement")
