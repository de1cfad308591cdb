"""What must be true of a queue: every transition on plain Python objects.

Written from the promises (docs/adr, docs/wire-format.md), not from the scripts: a message's
copy is in exactly one place, its lease is the fence, its record lives as long as it does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from broker.delivery import SUSPECT_FROM, Lease
from broker.entry import Fields
from broker.limits import QueueLimit
from broker.new_message import NewMessage
from broker.outcome import Bury, Cancel, Done, Outcome, Park, Release, Retry, Settled
from broker.settlement import Settlement

SIGNALS_KEPT = 64


class Place(Enum):
    """Where a copy of a message is; what has ended is nowhere."""

    SCHEDULED = "scheduled"
    READY = "ready"
    HELD = "held"
    RELEASED = "released"
    DEAD = "dead"


LIVE = (Place.SCHEDULED, Place.READY, Place.HELD, Place.RELEASED)
IN_STREAM = (Place.READY, Place.HELD, Place.RELEASED)


@dataclass(eq=False)
class Copy:
    """One entry of a message. Two copies of one id are alive after a successor or a redrive."""

    id: str
    key: str
    fields: Fields
    level: int
    place: Place = Place.READY
    #: Its turn among the entries of its level.
    turn: int = 0
    count: int = 0
    lease: Lease | None = None
    #: Nobody has renewed the lease, or fetched what was released, for a lease's time.
    idle: bool = False
    due: bool = False
    #: Learnt from the server after the step that wrote it.
    entry_id: bytes = b""
    letter: str = ""
    evidence: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        count = f" #{self.count}" if self.count else ""
        owner = f" {self.lease.consumer}" if self.lease else ""
        return f"{self.id or 'junk'}/{self.level} {self.place.value}{owner}{count}"


@dataclass
class Record:
    """What is remembered of an id; `state` is None while the message lives."""

    token: str
    key: str = ""
    state: str | None = None
    copies: int = 1
    #: Whether it tells the job's life; else it is there for the idempotency only.
    recorded: bool = True
    #: It had several copies at one time: the record knows the place of the latest only.
    several: bool = False
    #: Its key has a time of its own.
    lapses: bool = False
    #: Somebody wants the job that runs cancelled.
    cancel: bool = False
    #: Deliveries that ended unsettled before the job was parked: they count on.
    unsettled: int = 0
    #: It was told that its job has begun.
    started: bool = False


@dataclass(frozen=True)
class Expected:
    """A delivery as it must come: level, count and fields."""

    copy: Copy
    level: int
    count: int
    fields: Fields


@dataclass
class Model:
    """One queue. A method a transition; each returns what the command must answer."""

    max_deliveries: int
    copies: list[Copy] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)
    paused: bool = False
    bounds: QueueLimit = field(default_factory=QueueLimit)
    tokens: int | None = None
    #: The least number of signals that the last step owes to blocked consumers.
    owed: int = 0
    #: Consumers that have fetched and were not reaped since.
    readers: set[str] = field(default_factory=set)
    #: Ids whose record can't count their copies: written without one, or half purged.
    uncounted: set[str] = field(default_factory=set)
    _turns: int = 0

    # ---- what there is

    def at(self, *places: Place) -> list[Copy]:
        return [copy for copy in self.copies if copy.place in places]

    def stream(self, level: int, *places: Place) -> list[Copy]:
        """The entries of a level in their order."""
        found = (c for c in self.copies if c.level == level and c.place in (places or IN_STREAM))
        return sorted(found, key=lambda copy: copy.turn)

    def holders(self) -> dict[str, str]:
        """Deduplication key -> id, from the records of what lives."""
        held = {r.key: id for id, r in self.records.items() if r.key and r.state is None}
        assert len(held) == sum(bool(r.key and r.state is None) for r in self.records.values())
        return held

    def lapsing(self) -> set[str]:
        """The held keys that have a time of their own, as the last who took them said."""
        return {r.key for r in self.records.values() if r.key and r.state is None and r.lapses}

    @property
    def gated(self) -> bool:
        return self.paused or self.bounds != QueueLimit()

    def _append(self, copy: Copy) -> None:
        self._turns += 1
        copy.place, copy.turn, copy.count, copy.entry_id = Place.READY, self._turns, 0, b""

    def _owe(self, signals: int) -> None:
        self.owed += min(SIGNALS_KEPT, signals)

    def _owe_everybody(self) -> None:
        """One each, and one for whoever is about to block for the first time."""
        self.owed += len(self.readers) + 1

    # ---- producers

    def refuses(self, token: str, messages: Sequence[NewMessage], most: int) -> bool:
        """Whether a queue that may hold so many (0: any number) has no room for these.

        A job's own copy of itself, and the repeat of a call that was let in, find room.
        """
        known = {id for id, record in self.records.items() if record.token == token}
        let_in = any(m.successor or m.message_id in known for m in messages)
        return 0 < most < len(self.at(*LIVE)) + len(messages) and not let_in

    def _admit(self, token: str, message: NewMessage) -> tuple[str, bool]:
        id, key = message.message_id, message.claim.key if message.claim else ""
        record = self.records.get(id)
        live = record is not None and record.state is None
        if record is not None and (record.token == token or (live and not message.successor)):
            return id, False
        if key and self.holders().get(key, id) != id:
            return self.holders()[key], False
        copies = record.copies + 1 if live and record is not None else 1
        kept = live and record is not None
        recorded = message.recorded or (kept and record is not None and record.recorded)
        cancel = kept and record is not None and record.cancel
        several = copies > 1 or (kept and record is not None and record.several)
        lapses = message.claim is not None and message.claim.ttl_ms > 0
        unsettled = record.unsettled if kept and record is not None else 0
        self.records[id] = Record(
            token, key, None, copies, recorded, several, lapses, cancel, unsettled
        )
        return id, True

    def enqueue(self, token: str, messages: Iterable[NewMessage]) -> list[str]:
        known, added = [], 0
        for message in messages:
            id, new = self._admit(token, message)
            known.append(id)
            if new:
                self._append(self._new(message))
                added += 1
        if self.gated:
            self._owe(added)
        return known

    def schedule(self, token: str, due: bool, messages: Iterable[NewMessage]) -> list[str]:
        known = []
        for message in messages:
            id, new = self._admit(token, message)
            known.append(id)
            if new:
                self._set_aside(self._new(message), due)
        return known

    def _new(self, message: NewMessage) -> Copy:
        id, key = message.message_id, message.claim.key if message.claim else ""
        copy = Copy(id, key, message.fields, message.level)
        self.copies.append(copy)
        return copy

    def write_directly(self, id: str, level: int, fields: Fields) -> None:
        """What another language does with XADD; without an id it is no message."""
        copy = Copy(id, "", fields, level)
        self.copies.append(copy)
        self._append(copy)
        self.uncounted.add(id)

    def _set_aside(self, copy: Copy, due: bool) -> None:
        waiting = [other for other in self.at(Place.SCHEDULED) if other is not copy]
        if not waiting or (due and not any(other.due for other in waiting)):
            self._owe(1)
        copy.place, copy.due, copy.count, copy.entry_id = Place.SCHEDULED, due, 0, b""
        for other in waiting:  # scheduled once an id: the later one takes the place
            if other.id == copy.id:
                self.copies.remove(other)
                record = self.records.get(copy.id)
                if record is not None and record.copies > 1:
                    record.copies -= 1

    # ---- workers

    def fetch(
        self,
        consumer: str,
        count: int,
        lowest: bool,
        suspects: int,
        levels: int,
        due_order: Sequence[str],
    ) -> list[Expected]:
        """What must be handed over, in this order; :meth:`hand_over` follows."""
        self.readers.add(consumer)
        if self.paused:
            return []
        for copy in sorted(
            (copy for copy in self.at(Place.SCHEDULED) if copy.due),
            key=lambda copy: due_order.index(copy.id),
        ):
            copy.due = False
            self._append(copy)
        if self.bounds.global_concurrency is not None:
            count = min(count, max(0, self.bounds.global_concurrency - len(self.at(Place.HELD))))
        if self.tokens is not None:
            count = min(count, self.tokens)
        found: list[Expected] = []
        for level in range(levels) if lowest else reversed(range(levels)):
            waiting = self.stream(level, Place.RELEASED) + self.stream(level, Place.READY)
            for copy in waiting:
                suspect = copy.count + 1 >= SUSPECT_FROM
                if len(found) < count and (not suspect or suspects > 0):
                    suspects -= suspect
                    found.append(Expected(copy, level, copy.count + 1, copy.fields))
        if self.tokens is not None:
            self.tokens -= len(found)
        return found

    def read_blocked(self, levels: int) -> list[Expected]:
        """What a blocked read of COUNT 1 brings: the oldest new entry of each level."""
        first = [self.stream(level, Place.READY)[:1] for level in range(levels)]
        return [Expected(copy, copy.level, 1, copy.fields) for found in first for copy in found]

    def hand_over(self, copy: Copy, lease: Lease) -> None:
        copy.place, copy.count, copy.lease = Place.HELD, lease.count, lease
        copy.entry_id, copy.idle = lease.entry_id, False

    def note_started(self, copy: Copy) -> None:
        """The records hear of a delivery; what another language wrote gets its own now."""
        if copy.id:
            record = self.records.setdefault(copy.id, Record(""))
            record.started = record.started or record.recorded

    def owner(self, lease: Lease) -> Copy | None:
        return next((copy for copy in self.at(Place.HELD) if copy.lease == lease), None)

    def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        replies = [self._settle(each) for each in settlements]
        if self.gated:
            self._owe(len(settlements))
        return replies

    def _settle(self, settlement: Settlement) -> Settled:
        lease = settlement.lease
        copy = self.owner(lease)
        if copy is None:
            entries = {each.entry_id for each in self.stream(lease.level)}
            if lease.entry_id in entries:
                return Settled.STALE
            return Settled.GONE if settlement.message_id in self.records else Settled.LOST
        copy.lease = None
        if lease.count >= SUSPECT_FROM:
            self._owe(1)
        self._end(copy, settlement.deduplication_key, settlement.outcome)
        return Settled.OK

    def _end(self, copy: Copy, key: str, outcome: Outcome) -> None:
        match outcome:
            case Done():
                self.copies.remove(copy)
                self._finish(copy, "completed")
            case Cancel():
                self._cancelled(copy)
            case Retry() | Park() | Release() if self._to_be_cancelled(copy):
                self._cancelled(copy)
            case Retry(delay_ms, level, fields):
                record = self.records.setdefault(copy.id, Record(""))  # another language's had none
                record.unsettled, record.started = 0, False
                copy.level, copy.fields = level, fields
                if delay_ms:
                    self._set_aside(copy, due=delay_ms < 1_000)
                else:
                    self._append(copy)
            case Park(delay_ms):
                record = self.records.setdefault(copy.id, Record(""))
                record.unsettled, record.started = record.unsettled + copy.count - 1, False
                self._set_aside(copy, due=delay_ms < 1_000)
            case Release():
                copy.place, copy.count, copy.idle = Place.RELEASED, copy.count - 1, False
                self._owe(1)
            case Bury(reason, error, actor, error_type, trail):
                assert isinstance(trail, str)  # the model has no keys
                what = {"actor": actor, "error_type": error_type, "trail": trail}
                self._bury(copy, reason, error, key, what)

    def _to_be_cancelled(self, copy: Copy) -> bool:
        return copy.id in self.records and self.records[copy.id].cancel

    def _cancelled(self, copy: Copy) -> None:
        self.copies.remove(copy)
        self._finish(copy, "cancelled")

    def _bury(self, copy: Copy, reason: str, error: str, key: str, more: dict[str, str]) -> None:
        entry, name = copy.entry_id.decode(), copy.id
        name = name or f"{copy.level}:{entry}"
        copy.letter = self._free(name, f"{name}:{entry}")
        copy.evidence = {"reason": reason, "error": error, "dedup": key}
        copy.evidence |= {"deliveries": str(copy.count), "level": str(copy.level), **more}
        copy.place, copy.lease = Place.DEAD, None
        self._finish(copy, "dead")

    def _free(self, name: str, second: str) -> str:
        """Several letters of one id keep apart."""
        taken = {other.letter for other in self.at(Place.DEAD)}
        names = [name, second, *(f"{second}:{number}" for number in range(2, len(taken) + 2))]
        return next(each for each in names if each not in taken)

    def _finish(self, copy: Copy, state: str) -> None:
        """An end of one copy: the record and the key end with the last one."""
        if not copy.id:
            return
        record = self.records.setdefault(copy.id, Record(""))
        record.copies -= 1
        if record.copies <= 0:
            record.state, record.key, record.copies, record.cancel = state, "", 0, False

    def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        lost = []
        for lease in leases:
            copy = self.owner(lease)
            if copy is None:
                lost.append(lease)
            else:
                copy.idle = False
        return lost

    # ---- the keeper

    def reclaim(self, claimant: str = "") -> tuple[int, int, list[Copy]]:
        """Those that are the claimant's now come last: it is to bury them, and tells of it."""
        # A copy that waits is looked at again: another one's deliveries may have been added.
        waiting = [c for c in self.at(Place.RELEASED) if c.idle and self._is_doomed(c)]
        expired = [copy for copy in self.at(Place.HELD) if copy.idle] + waiting
        doomed = []
        for copy in self.at(Place.RELEASED):
            copy.idle = copy in waiting
        for copy in expired:
            if claimant and copy.id and self._is_doomed(copy) and not self._to_be_cancelled(copy):
                copy.lease = Lease(copy.level, copy.entry_id, copy.count, claimant)
                copy.place, copy.idle = Place.HELD, False
                doomed.append(copy)
        return *self._take_back([copy for copy in expired if copy.idle]), doomed

    def _deliveries(self, copy: Copy) -> int:
        return copy.count + (self.records[copy.id].unsettled if copy.id in self.records else 0)

    def _is_doomed(self, copy: Copy) -> bool:
        return self._deliveries(copy) >= self.max_deliveries

    def reclaim_consumer(self, level: int, consumer: str) -> tuple[int, int]:
        held = self.stream(level, Place.HELD)
        return self._take_back([c for c in held if c.lease and c.lease.consumer == consumer])

    def _take_back(self, copies: Iterable[Copy]) -> tuple[int, int]:
        released = buried = 0
        for copy in sorted(copies, key=lambda copy: (copy.level, copy.turn)):
            copy.lease, copy.idle = None, False
            if self._to_be_cancelled(copy):
                self._cancelled(copy)
                buried += 1
            elif self._is_doomed(copy):
                copy.count = self._deliveries(copy)
                record = self.records.get(copy.id)
                key = record.key if record is not None else ""
                error = f"delivered {copy.count} times and never settled: it may kill its worker"
                what = {"actor": actor_of(copy.fields), "error_type": "", "trail": ""}
                self._bury(copy, "max_deliveries", error, key, what)
                buried += 1
            else:
                copy.place = Place.RELEASED
                released += 1
        if released or (buried and self.gated):
            self._owe_everybody()
        return released, buried

    # ---- operators

    def pause(self) -> bool:
        changed, self.paused = not self.paused, True
        self._owe_everybody()
        return changed

    def resume(self) -> bool:
        changed, self.paused = self.paused, False
        self._owe_everybody()
        return changed

    def limit(self, bounds: QueueLimit) -> bool:
        if bounds == self.bounds:
            return False
        if (bounds.rate, bounds.per_ms) != (self.bounds.rate, self.bounds.per_ms):
            self.tokens = bounds.rate
        self.bounds = bounds
        self._owe_everybody()
        return True

    def redrive(self, copies: Sequence[Copy], fields: Sequence[Fields]) -> int:
        """Letters go back; one named twice goes once."""
        moved = 0
        for copy, new in zip(copies, fields, strict=True):
            if copy.place is not Place.DEAD:
                continue
            copy.fields = new
            self._append(copy)
            moved += 1
            if copy.id:
                self._revive(copy.id, copy.evidence["dedup"])
        if self.gated:
            self._owe(moved)
        return moved

    def _revive(self, id: str, key: str) -> None:
        record = self.records.get(id)
        if record is not None and record.state is None:
            record.copies += 1
            record.several, record.token = True, record.token or "redrive"
        else:
            recorded = record is None or record.recorded
            record = self.records[id] = Record("redrive", recorded=recorded)
        if key and not record.key and key not in self.holders():
            record.key, record.lapses = key, False

    def cancel(self, id: str) -> str:
        """For an id of which at most one copy lives."""
        record = self.records.get(id)
        if record is None:
            return "unknown"
        if record.state is not None:
            return "ended"
        (copy,) = (copy for copy in self.at(*LIVE) if copy.id == id)
        if copy.place is Place.SCHEDULED:
            self._cancelled(copy)
            return "cancelled"
        if not record.recorded:
            return "unknown"  # nobody noted where it is
        if copy.place is Place.HELD:
            record.cancel = True
            return "requested"
        if self.gated:
            self._owe(1)
        self._cancelled(copy)
        return "cancelled"

    def purge(self, limit: int, levels: int, scheduled: Sequence[str]) -> int:
        """One call: the first of each place."""
        by_id = {copy.id: copy for copy in self.at(Place.SCHEDULED)}
        gone = [by_id[id] for id in scheduled[:limit]]
        for level in range(levels):
            gone += self.stream(level)[:limit]
        for copy in gone:
            self.copies.remove(copy)
            self.records.pop(copy.id, None)
        self.uncounted |= {c.id for c in self.at(*LIVE)} & {c.id for c in gone}
        return len(gone)

    def sweep(self, limit: int, letters: Sequence[str]) -> int:
        """Drop the oldest letters, whatever their age."""
        gone = set(letters[:limit])
        self.copies = [c for c in self.copies if c.place is not Place.DEAD or c.letter not in gone]
        return len(gone)


def actor_of(fields: Fields) -> str:
    named = dict(zip(fields[::2], fields[1::2], strict=True))
    return str(named.get("actor", ""))
