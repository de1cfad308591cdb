"""What this process holds of a queue, and the one suspect that it may hold."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

from broker.ahead import Ahead
from broker.delivery import SUSPECT_FROM, Delivery, Lease, Slot
from broker.untold import Untold


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
        #: How few are to be held for whoever waits for room; -1: nobody does.
        self._awaited = -1
        #: How many have ended so far.
        self.ended = 0
        #: The consumer's.
        self.untold = Untold(self.has)
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

    def ahead(self, prefetch: int, *, fixed: bool) -> Ahead:
        """How many deliveries to hold at once."""
        if self._concurrency is not None:
            prefetch, fixed = min(prefetch, self._concurrency), True
        return Ahead(prefetch, fixed=fixed, ended=self.ended)

    def add(self, deliveries: Iterable[Delivery]) -> None:
        with self._changed:
            for delivery in deliveries:
                self._held[delivery.lease] = delivery
                self._buffer.append(delivery)

    def next(self) -> Delivery | None:
        """The next delivery for Dramatiq."""
        with self._changed:
            return self._buffer.popleft() if self._buffer else None

    def remove(self, delivery: Delivery, *, ended: bool = True) -> bool:
        """Forget a delivery; False when it was not held (released before, say).

        One that goes back as it came has not ``ended``: how short its job is nobody knows.
        """
        with self._changed:
            if self._held.get(delivery.lease) is not delivery:
                return False
            del self._held[delivery.lease]
            self.ended += ended
            if len(self._held) <= self._awaited:
                self._changed.notify_all()
            return True

    def keep(self, delivery: Delivery) -> None:
        """Hold a delivery that is on its way already: its end could not be written, say."""
        with self._changed:
            self._held[delivery.lease] = delivery

    def held(self) -> int:
        """How many are held."""
        return len(self._held)

    def wait_for_room(self, limit: int, wanted: int, timeout: float) -> int:
        """Wait up to ``timeout`` seconds for ``wanted`` free places; returns how many there are."""
        with self._changed:
            self._awaited = limit - wanted
            self._changed.wait_for(lambda: limit - len(self._held) >= wanted, timeout)
            self._awaited = -1
            return limit - len(self._held)

    def holds(self, message_id: str) -> Delivery | None:
        """The delivery of a message that this process holds, if it does."""
        with self._changed:
            for delivery in self._held.values():
                if delivery.message_id == message_id:
                    return delivery
            return None

    def owns(self, delivery: Delivery) -> bool:
        """Whether this very delivery is held, or was handed back at shutdown while it ran."""
        return self._held.get(delivery.lease) is delivery or delivery.handed_back

    def has(self, lease: Lease) -> bool:
        """Whether the delivery with this lease is held."""
        return lease in self._held

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
            for delivery in held:
                delivery.handed_back = True
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
        """A delivery is not held any more; nothing changes if it is not the suspect."""
        if lease.count < SUSPECT_FROM:
            return
        with self._lock:
            if self._holder == lease:
                self._holder = None
