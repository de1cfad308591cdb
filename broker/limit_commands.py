"""Limits by a key: who may start, and who waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from broker.clock import LONGEST_DELAY_MS
from broker.delivery import Lease, Slot
from broker.limits import KeyLimits
from broker.runner import Runner


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


class LimitCommands(Runner):
    """A part of :class:`broker.commands.Commands`."""

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
        delay_ms = min(delay_ms, LONGEST_DELAY_MS)  # the server counts no further
        return int(self._run("hold", (self.keys(queue).limit(key),), delay_ms))
