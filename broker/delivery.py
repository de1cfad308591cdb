"""A message in the hands of this process, and all of one queue that are."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dramatiq.broker import MessageProxy
from dramatiq.message import Message

from broker import evidence
from broker.flow_commands import Begun
from broker.outcome import Outcome
from broker.sealing import OPTION

#: The delivery count from which an entry is a suspect: its earlier deliveries ended
#: without being settled, so it may be what kills workers. Kept in step with fetch.lua.
SUSPECT_FROM = 3


@dataclass(frozen=True, slots=True)
class Lease:
    """The place of an entry and the fence that settling it checks."""

    level: int
    entry_id: bytes
    count: int
    consumer: str


@dataclass(frozen=True, slots=True)
class Slot:
    """One place under the concurrency of a key."""

    key: str
    #: The member that stands for the delivery among the key's slots.
    holder: str


class Delivery(MessageProxy):
    """Dramatiq's proxy of a message, with the lease under which it runs."""

    def __init__(self, message: Message[Any], lease: Lease) -> None:
        super().__init__(message)
        # Read dozens of times a job; by the proxy's __getattr__ each costs a failed look-up first.
        self.queue_name = message.queue_name
        self.actor_name = message.actor_name
        self.message_id = message.message_id
        self.options = message.options
        self.lease = lease
        #: Decided when ack or nack asks for it, or before, by a retry for instance.
        self.outcome: Outcome | None = None
        #: Why it is buried, if whoever failed it says so.
        self.reason: evidence.Reason | None = None
        #: The actor or a middleware enqueued a copy of this message under its own id.
        self.requeued = False
        #: What its flow has sent with it, packed; empty for nothing.
        self.given = b""
        #: What its flow said when it was taken; None for a message of none.
        self.begun: Begun | None = None
        #: What it returned, for its flow; JSON, empty for None.
        self.result = b""
        #: Held while the job runs, and renewed with the lease.
        self.slot: Slot | None = None
        #: When its run began, unix ms; None until then.
        self.started_ms: int | None = None
        #: The number of this run, the first is 1; a retry that is prepared does not change it.
        self.attempt = 1
        #: Somebody wants it cancelled; written under the lock of `RunningJobs` only.
        self.cancelled = False

    @property
    def message(self) -> Message[Any]:
        """The message itself, whose attributes cost nothing to read."""
        return self._message

    @property
    def ready_at_ms(self) -> int:
        """When the entry came into its stream, unix ms by the server's clock."""
        return int(self.lease.entry_id.partition(b"-")[0])

    @property
    def exception(self) -> BaseException | None:
        """What the actor raised, until Dramatiq clears it."""
        return self._exception

    @property
    def sealed(self) -> bool:
        """Whether its content is encrypted in Redis, and so may show nowhere else."""
        return self.options.get(OPTION) is True

    def told(self, error: BaseException) -> str:
        """The error as it may be stored and logged in clear: of a sealed job its type alone."""
        return evidence.error_type(error) if self.sealed else evidence.text(error)

    def __str__(self) -> str:
        return f"{self.actor_name}(sealed)" if self.sealed else super().__str__()

    def __repr__(self) -> str:
        if self.sealed:
            return f"<{type(self).__qualname__} {self.message_id!r} of {self}>"
        return super().__repr__()


class InFlight:
    """The deliveries of one queue that this process holds. Thread-safe.

    It outlives the consumer objects, which Dramatiq replaces after an error.
    """

    def __init__(self, concurrency: int | None = None) -> None:
        self._concurrency = concurrency
        self._changed = threading.Condition()
        # By lease: two levels may have entries of one id.
        self._held: dict[Lease, Delivery] = {}
        self._buffer: deque[Delivery] = deque()
        self._awaited_room = 0
        #: A consumer is there that may bring more.
        self._taking = False

    def begin_taking(self) -> None:
        """A consumer is there."""
        with self._changed:
            self._taking = True

    def stop_taking(self) -> None:
        """The consumer has seen that the broker drains: it brings nothing more.

        It says so again while it idles, which is when whoever waits for the end looks.
        """
        with self._changed:
            self._taking = False
            self._changed.notify_all()

    def wait_for_end(self) -> None:
        """Wait until nothing is held and nothing more can come."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taking and not self._held)

    def limit(self, prefetch: int) -> int:
        """The most deliveries to hold at once, those that run included."""
        return prefetch if self._concurrency is None else min(prefetch, self._concurrency)

    def add(self, deliveries: Iterable[Delivery]) -> None:
        with self._changed:
            for delivery in deliveries:
                self._held[delivery.lease] = delivery
                self._buffer.append(delivery)

    def next(self, limit: int) -> Delivery | None:
        """The next delivery for Dramatiq, unless ``limit`` of them are with it already."""
        with self._changed:
            if self._buffer and len(self._held) - len(self._buffer) < limit:
                return self._buffer.popleft()
            return None

    def remove(self, delivery: Delivery) -> bool:
        """Forget a delivery; False when it was not held (released before, say)."""
        with self._changed:
            if self._held.get(delivery.lease) is not delivery:
                return False
            del self._held[delivery.lease]
            if self._awaited_room:
                self._changed.notify_all()
            return True

    def wait_for_room(self, limit: int, wanted: int, timeout: float) -> int:
        """Wait up to ``timeout`` seconds for ``wanted`` free places; returns how many there are."""
        with self._changed:
            self._awaited_room = wanted
            self._changed.wait_for(lambda: limit - len(self._held) >= wanted, timeout)
            self._awaited_room = 0
            return limit - len(self._held)

    def holds(self, message_id: str) -> Delivery | None:
        """The delivery of a message that this process holds, if it does."""
        with self._changed:
            for delivery in self._held.values():
                if delivery.message_id == message_id:
                    return delivery
            return None

    def deliveries(self) -> list[Delivery]:
        with self._changed:
            return list(self._held.values())

    def slots(self) -> list[Slot]:
        with self._changed:
            return [d.slot for d in self._held.values() if d.slot is not None]

    def drain(self) -> list[Delivery]:
        """Take everything out, for handing it back at shutdown."""
        with self._changed:
            held = list(self._held.values())
            self._held.clear()
            self._buffer.clear()
            self._changed.notify_all()
            return held


class SuspectSlot:
    """At most one suspect a process: the killer dies alone. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: Lease | None = None
        self._reserved = False

    def reserve(self) -> bool:
        """Ask to fetch one suspect; a True must be followed by :meth:`occupy`."""
        with self._lock:
            if self._reserved or self._holder is not None:
                return False
            self._reserved = True
            return True

    def occupy(self, leases: Iterable[Lease]) -> None:
        """Say what the fetch brought; without a suspect among it the slot is free again."""
        with self._lock:
            self._reserved = False
            for lease in leases:
                if lease.count >= SUSPECT_FROM:
                    self._holder = lease

    def free(self, lease: Lease) -> None:
        with self._lock:
            if self._holder == lease:
                self._holder = None
