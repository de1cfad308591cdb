"""Group commit of settlements: load makes batches, an idle worker settles at once."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import redis
from dramatiq.errors import BrokerConnectionError

from broker.commands import Commands
from broker.delivery import Lease
from broker.outbox import Letter
from broker.outcome import Release, Settled
from broker.own_thread import OwnThread
from broker.retention import Retention
from broker.settlement import Settlement

#: The most in one script, so that it is short also if all of them are burials.
BATCH = 100
#: And the most bytes, unless one has more: a line of a megabit a second carries them in half the
#: time that a script has until it is given up.
BATCH_BYTES = 256 * 1024
# So many may wait before the queue's consumer takes no more: each has run, and runs again if this
# process dies before it is written.
_MOST_WAITING = 4 * BATCH
# Where more than a few have come at once, more come: a moment is waited for a whole batch.
_FEW, _LINGER_S = 4, 0.002
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # seconds between tries while the server is away


@dataclass(slots=True)
class _Held:
    """A batch that could not be written; the queue's later ones wait behind it."""

    batch: list[Settlement]
    pause: float
    due: float


class Settler(OwnThread):
    """One a process. Outcomes survive a lost connection in memory and are tried again.

    A queue whose node of a cluster is away does not hold up the others. ``settled`` is told
    of each batch that was written: queue, settlements, replies, seconds it took; ``deliver`` is
    given the letters that this wrote, by queue. Of what waits here the keeper renews the leases.
    What it was writing when it died alone is delivered again when its leases run out, which nobody
    renews then.
    """

    def __init__(
        self,
        commands: Commands,
        retention: Callable[[str], Retention],
        settled: Callable[[str, list[Settlement], list[Settled], float], None],
        deliver: Callable[[str, list[Letter]], None],
    ) -> None:
        super().__init__("settler")
        self._commands = commands
        self._retention = retention
        self._settled = settled
        self._deliver = deliver
        self._inbox: dict[str, deque[Settlement]] = defaultdict(deque)
        self._held: dict[str, _Held] = {}
        #: By queue: what goes back and is not written yet. Every fetch asks whether there is any.
        self._going_back: dict[str, set[Lease]] = defaultdict(set)
        self._changed = threading.Condition()
        #: By queue: what is being written.
        self._writing: dict[str, list[Settlement]] = {}
        #: By queue: how many at the head of its inbox are settled one at a time.
        self._singly: Counter[str] = Counter()
        #: How many have to wait before its thread is woken.
        self._wanted = 1

    def put(self, queue: str, settlement: Settlement) -> None:
        """Take over the end of a delivery; returns at once."""
        with self._changed:
            waiting = self._inbox[queue]
            waiting.append(settlement)
            if isinstance(settlement.outcome, Release):
                self._going_back[queue].add(settlement.lease)
            if len(waiting) >= self._wanted:
                self._changed.notify_all()

    def wait_to_take(self, queue: str, timeout: float) -> bool:
        """Wait until the queue may be taken from; False if not in ``timeout`` seconds.

        All that it gets back is written then: who took before that could get a delivery again by
        its old lease, and lose it to a release that is tried again because its answer was lost.
        And so is, but for a few batches, what has ended: who took what can't be settled would run
        it for nothing.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._may_take(queue), timeout)

    def _may_take(self, queue: str) -> bool:
        return not (
            queue in self._held
            or self._going_back[queue]
            or len(self._inbox[queue]) >= _MOST_WAITING
        )

    def unwritten(self, queue: str) -> list[tuple[Lease, str]]:
        """What of the queue has ended and is not known to be written: leases and message ids."""
        with self._changed:
            held = self._held[queue].batch if queue in self._held else ()
            waiting = chain(held, self._writing.get(queue, ()), self._inbox[queue])
            return list({s.lease: s.message_id for s in waiting}.items())

    def stop(self, timeout: float) -> bool:
        """Settle what is left for up to ``timeout`` seconds; False if some stay in flight."""
        with self._changed:
            empty = self._changed.wait_for(lambda: not self._left() and not self._writing, timeout)
            self._stopping = True
            self._changed.notify_all()
            left = self._left()
        if not empty:
            self._logger.error(
                "%d settlements could not be written; their jobs will run again.", left
            )
        return empty

    def _left(self) -> int:
        held = sum(len(held.batch) for held in self._held.values())
        return held + sum(map(len, self._inbox.values()))

    def _run(self) -> None:
        for queue, batch in self._writing.items():  # it has died
            if queue not in self._held:
                self._forget(queue, batch)
        self._writing, self._wanted = {}, 1
        while True:
            with self._changed:
                while not self._stopping and not self._ready():
                    self._changed.wait(self._next_try())
                if self._stopping:
                    return
                batches = {queue: self._take(queue) for queue in self._ready()}
                self._writing = batches
            for queue, batch in batches.items():
                self._settle(queue, batch)
            with self._changed:
                self._writing = {}
                self._changed.notify_all()
                if max(map(len, batches.values())) > _FEW:
                    self._linger()

    def _linger(self) -> None:
        """Wait a moment for a whole batch."""
        self._wanted = BATCH
        self._changed.wait_for(
            lambda: self._stopping or any(len(q) >= BATCH for q in self._inbox.values()), _LINGER_S
        )
        self._wanted = 1

    def _ready(self) -> list[str]:
        now = time.monotonic()
        due = [queue for queue, held in self._held.items() if held.due <= now]
        return due + [q for q, waiting in self._inbox.items() if waiting and q not in self._held]

    def _next_try(self) -> float | None:
        if not self._held:
            return None
        return max(0.0, min(held.due for held in self._held.values()) - time.monotonic())

    def _take(self, queue: str) -> list[Settlement]:
        if queue in self._held:
            return self._held[queue].batch
        waiting = self._inbox[queue]
        if self._singly[queue]:
            self._singly[queue] -= 1
            # Held, as one that is tried again: it is gone if the script that failed has settled it.
            self._held[queue] = _Held([waiting.popleft()], _FIRST_PAUSE, 0.0)
            return self._held[queue].batch
        return _batch(waiting)

    def _settle(self, queue: str, batch: list[Settlement]) -> None:
        held, begin = self._held.get(queue), time.monotonic()
        kept = self._retention(queue).completed
        try:
            replies = self._commands.settle(queue, batch, kept, self._deliver)
        except BrokerConnectionError as error:
            self._logger.warning(
                "Settling %d deliveries of %r failed, trying again: %s",
                *(len(batch), queue, error),
                extra={"queueName": queue},
            )
            if len(batch) > 1 and isinstance(error.__cause__, redis.TimeoutError):
                self._separate(queue, batch)  # the line may be too slow for all of them together
                return
            pause = _FIRST_PAUSE if held is None else min(held.pause * 2, _LONGEST_PAUSE)
            self._hold(queue, _Held(batch, pause, time.monotonic() + pause))
            return
        except Exception:
            if len(batch) > 1:
                self._separate(queue, batch)
                return
            self._logger.exception(
                "Settling message %r of %r failed; it will be delivered again.",
                *(batch[0].message_id, queue),
                extra={"queueName": queue, "jobId": batch[0].message_id},
            )
        else:
            self._report(queue, batch, replies, repeated=held is not None)
            self._settled(queue, batch, replies, time.monotonic() - begin)
        self._forget(queue, batch)

    def _separate(self, queue: str, batch: list[Settlement]) -> None:
        """Settle one by one what could not be together: the others are not to suffer for one."""
        with self._changed:
            self._held.pop(queue, None)
            self._inbox[queue].extendleft(reversed(batch))
            self._singly[queue] += len(batch)

    def _hold(self, queue: str, held: _Held) -> None:
        with self._changed:
            self._held[queue] = held

    def _forget(self, queue: str, batch: list[Settlement]) -> None:
        """It is written, or will never be."""
        with self._changed:
            self._held.pop(queue, None)
            self._going_back[queue].difference_update(each.lease for each in batch)

    def _report(
        self, queue: str, batch: list[Settlement], replies: list[Settled], *, repeated: bool
    ) -> None:
        for settlement, reply in zip(batch, replies, strict=True):
            if reply is Settled.LOST:
                self._logger.error(
                    "Message %r is lost: queue %r knows neither it nor its end. It was purged, "
                    "or the server has lost its data.",
                    settlement.message_id,
                    queue,
                    extra={"queueName": queue, "jobId": settlement.message_id},
                )
            # After a lost reply the entry is gone because the first try settled it.
            elif reply is not Settled.OK and not repeated:
                self._logger.warning(
                    "Lost the lease of message %r on queue %r: its settlement was fenced off (%s).",
                    settlement.message_id,
                    queue,
                    reply.name.lower(),
                    extra={"queueName": queue, "jobId": settlement.message_id},
                )


def _batch(waiting: deque[Settlement]) -> list[Settlement]:
    """Take out the first ones, as many as go into one script."""
    batch = [waiting.popleft()]
    size = batch[0].size
    while waiting and len(batch) < BATCH and (size := size + waiting[0].size) <= BATCH_BYTES:
        batch.append(waiting.popleft())
    return batch
