"""Renews leases, reclaims expired ones, applies retention: what keeps time for a worker."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from dramatiq.errors import BrokerConnectionError, ConnectionClosed

from broker.commands import BEGINNING, Commands, Doomed, Position
from broker.consumer_name import ConsumerName
from broker.dead_routing import DeadRouting
from broker.delivery import Delivery, Lease
from broker.in_flight import InFlight
from broker.keys import GROUP
from broker.own_thread import OwnThread
from broker.queue_rules import QueueRules
from broker.retention import Keep
from broker.workers import unseen

_RENEWED_PER_CALL = 500
_RECLAIMED_PER_CALL = 100
_CALLS_PER_SWEEP = 20
_SWEPT_PER_CALL = 500
# Consumers that are gone hold nothing and harm nobody, and looking for them asks for each level.
_ROUNDS_PER_REAP = 5
# What a vanished process held may be what killed it. Dramatiq's main process waits for ever for a
# worker process that is killed while it says that it is ready, so not before that is over.
_READY_S = 1.0


class Keeper(OwnThread):
    """One a process; a third of the lease between rounds. Survives any exception."""

    def __init__(
        self,
        commands: Commands,
        in_flight: Callable[[], Mapping[str, InFlight]],
        unwritten: Callable[[str], list[tuple[Lease, str]]],
        name: ConsumerName,
        rules: QueueRules,
        routing: DeadRouting,
        *,
        lease_ms: int,
        max_deliveries: int,
        on_cancelled: Callable[[Delivery], None],
        bury: Callable[[str, Doomed], None],
        look_for_letters: Callable[[str], None],
    ) -> None:
        super().__init__("keeper")
        self._commands = commands
        self._in_flight = in_flight
        self._unwritten = unwritten
        self._own_name = name
        self._rules = rules
        self._routing = routing
        self._lease_ms = lease_ms
        self._max_deliveries = max_deliveries
        self._on_cancelled = on_cancelled
        self._bury = bury
        self._look_for_letters = look_for_letters
        self._positions: dict[str, Position] = {}
        self._released_for: set[str] = set()
        self._rounds: Counter[str] = Counter()
        self._due = threading.Event()
        self._renew_at = 0.0
        self._ready_at = time.monotonic() + _READY_S

    def look_now(self) -> None:
        """Begin a round at once, with the renewals.

        A queue is new here and may hold what a vanished process left, or a cancelled job has
        gone unheard.
        """
        self._due.set()

    def stop(self) -> None:
        self._stopping = True
        self._due.set()

    def _run(self) -> None:
        while not self._stopping:
            self._due.clear()
            self._renew_all()
            for queue in self._in_flight():
                # A server that does not answer costs its time-out, a queue after the other.
                self._renew_if_due()
                self._look_after(queue)
            # Nobody need work on a queue that keeps other queues' dead letters.
            for queue in self._routing.queues() - self._in_flight().keys():
                self._guarded(self._sweep, queue)
            now = time.monotonic()
            until = self._renew_at if now >= self._ready_at else min(self._renew_at, self._ready_at)
            self._due.wait(max(0.0, until - now))

    @property
    def _renewal_is_due(self) -> bool:
        return time.monotonic() >= self._renew_at

    def _renew_if_due(self) -> None:
        if self._renewal_is_due:
            self._renew_all()

    def _renew_all(self) -> None:
        jitter = random.uniform(0.8, 1.0)  # noqa: S311 - no secret
        self._renew_at = time.monotonic() + self._lease_ms / 3000 * jitter
        for queue, held in self._in_flight().items():
            self._guarded(self._renew, queue, held)
            self._guarded(self._renew_slots, queue, held)

    def _guarded(self, step: Callable[..., None], queue: str, *args: Any) -> bool:
        """Do it; False if no other step for the queue would get an answer either."""
        try:
            step(queue, *args)
        except BrokerConnectionError as error:
            self._logger.warning(
                "Keeping queue %r failed, trying again: %s",
                queue,
                error,
                extra={"queueName": queue},
            )
            return not isinstance(error, ConnectionClosed)
        except Exception:
            self._logger.exception(
                "Keeping queue %r failed, trying again.", queue, extra={"queueName": queue}
            )
        return True

    def _repeat(self, step: Callable[[], bool]) -> None:
        """Call it as long as it says that more is left; once leases are due the rest waits.

        So no amount of work keeps another queue from its turn.
        """
        while step() and not self._renewal_is_due and not self._stopping:
            pass

    def _look_after(self, queue: str) -> None:
        """A round's work for one queue; one step that fails keeps none from the others."""
        steps = (
            *(self._release_vanished, self._reclaim, self._look_for_letters, self._sweep),
            *(self._forget, self._lapse, self._reap),
            self._commands.register,  # last: a full server refuses this one
        )
        for step in steps:
            if not self._guarded(step, queue):
                return
            self._renew_if_due()  # over a slow line each step takes its time

    def _lapse(self, queue: str) -> None:
        self._repeat(lambda: self._commands.lapse(queue, _SWEPT_PER_CALL) == _SWEPT_PER_CALL)

    def _reap(self, queue: str) -> None:
        if self._rounds[queue] % _ROUNDS_PER_REAP == 0:
            self._commands.reap(queue, self._lease_ms * 2)
        self._rounds[queue] += 1

    def _sweep(self, queue: str) -> None:
        kept = self._rules.dead_retention(queue)
        self._repeat(
            lambda: self._commands.sweep(queue, kept.age_ms, kept.count, _SWEPT_PER_CALL) > 0
        )

    def _forget(self, queue: str) -> None:
        """Drop the records that are not to be kept any longer."""
        kept = self._rules.retention(queue)
        # A dead job's record says nothing without its letter.
        dead = self._rules.dead_retention(queue)
        age_ms = dead.age_ms if kept.failed.age_ms is None else kept.failed.age_ms
        failed = Keep(kept.failed.count, age_ms)
        for state, bounds in (
            *(("completed", kept.completed), ("cancelled", kept.completed)),
            *(("dead", failed),),
        ):
            self._repeat(partial(self._forget_some, queue, state, bounds))

    def _forget_some(self, queue: str, state: str, bounds: Keep) -> bool:
        return self._commands.forget(queue, state, bounds, _SWEPT_PER_CALL) == _SWEPT_PER_CALL

    def _renew(self, queue: str, held: InFlight) -> None:
        deliveries = {delivery.lease: delivery for delivery in held.deliveries()}
        leases = [(lease, delivery.message_id) for lease, delivery in deliveries.items()]
        # What has ended and is not written yet would run again without its lease.
        leases += (each for each in self._unwritten(queue) if each[0] not in deliveries)
        for start in range(0, len(leases), _RENEWED_PER_CALL):
            renewed = self._commands.renew(queue, leases[start : start + _RENEWED_PER_CALL])
            for lease in deliveries.keys() & renewed.cancelled:
                self._on_cancelled(deliveries[lease])
            if not renewed.lost:
                continue
            # Most of what is lost has been settled in between.
            still_held = {delivery.lease for delivery in held.deliveries()}
            for lease in still_held.intersection(renewed.lost):
                self._logger.warning(
                    *("Lost the lease of entry %r on queue %r.", lease.entry_id.decode(), queue),
                    extra={"queueName": queue},
                )

    def _renew_slots(self, queue: str, held: InFlight) -> None:
        slots = held.slots()
        for start in range(0, len(slots), _RENEWED_PER_CALL):
            batch = slots[start : start + _RENEWED_PER_CALL]
            lost = self._commands.renew_slots(queue, batch, self._lease_ms)
            # Most of what is lost has been given back in between.
            for slot in set(lost).intersection(held.slots()) if lost else ():
                self._logger.warning(
                    "Lost a slot of key %r on queue %r.",
                    slot.key,
                    queue,
                    extra={"queueName": queue},
                )

    def _reclaim(self, queue: str) -> None:
        position: Position | None = self._positions.pop(queue, BEGINNING)
        for _ in range(_CALLS_PER_SWEEP):
            if position is None:
                return
            done = self._commands.reclaim(
                *(queue, self._lease_ms, self._max_deliveries, _RECLAIMED_PER_CALL, position),
                claimant=str(self._own_name),
                told_of=self._routing.actors(),
            )
            position = done.position
            for doomed in done.doomed:
                self._bury(queue, doomed)
            if done.released or done.ended or done.doomed:
                self._logger.warning(
                    "Reclaimed from queue %r: %d released, %d buried or cancelled.",
                    queue,
                    done.released,
                    done.ended + len(done.doomed),
                    extra={"queueName": queue},
                )
            if self._renewal_is_due:
                break
        if position is not None:
            self._positions[queue] = position

    def _release_vanished(self, queue: str) -> None:
        """Hand back once, without waiting for leases, what vanished processes of this host held."""
        if queue in self._released_for or time.monotonic() < self._ready_at:
            return
        streams = self._commands.keys(queue).ready
        for level, consumer, _ in unseen(self._commands.client, GROUP, streams, idle_ms=0):
            name = consumer.decode("utf-8", "replace")
            parsed = ConsumerName.parse(name)
            if parsed is None or not parsed.vanished(self._own_name):
                continue
            told_of = self._routing.actors()
            while sum(
                self._commands.reclaim_consumer(
                    *(queue, level, name, self._max_deliveries, 200), told_of=told_of
                )
            ):
                self._renew_if_due()
        self._released_for.add(queue)
