"""Makes the fires that are due; any number of schedulers may do so side by side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from dramatiq.errors import BrokerConnectionError
from dramatiq.logging import get_logger

from broker import StreamsBroker
from broker.heartbeat import Heartbeat
from broker.schedule import Fired, Schedule
from broker.schedule_commands import Kept
from broker.schedules import decode

#: A fire that is later than this (ms) has been missed. Up to here it is only late.
MISSED_AFTER_MS: Final = 60_000
#: How long changes of others may stay unseen.
_LOOK_EVERY_MS: Final = 5_000
#: When a scheduler that was not heard of is stuck.
_SILENT_MS: Final = 60_000
#: How long until the end of a job is seen for which a fire waits; and between tries.
_SOON_MS: Final = 1_000


class Scheduler:
    """Fires the schedules of a broker: those it is given, and those added at run time.

    It keeps nothing but the time: what has been fired is in Redis, and a fire is made by one
    script that looks there. So another scheduler may run, and this one may stop anywhere.
    """

    def __init__(
        self,
        broker: StreamsBroker,
        declared: Iterable[Schedule],
        heartbeat: Heartbeat | None = None,
    ) -> None:
        self._broker = broker
        self._heartbeat = heartbeat
        self._commands = broker.schedule_commands
        self._declared: Final = {(each.queue, each.name): each for each in declared}
        self._known: set[tuple[str, str]] = set()
        self._logger = get_logger(__name__, type(self))

    def tick(self) -> int:
        """Make every fire that is due; returns in how many ms to come again, at the latest.

        Never raises: what could not be done is tried again.
        """
        try:
            again_ms = min(map(self._tick, self._queues()), default=_LOOK_EVERY_MS)
            if self._heartbeat is not None:
                self._heartbeat.beat(_SILENT_MS)
            return again_ms
        except BrokerConnectionError as error:
            self._logger.warning("The server can't be reached, trying again: %s", error)
        except Exception:
            self._logger.exception("Looking after the schedules failed, trying again.")
        return _SOON_MS

    def _queues(self) -> list[str]:
        own = {queue for queue, _ in self._declared}
        return sorted(own.union(self._broker.inspector.queues()))

    def _tick(self, queue: str) -> int:
        now_ms, rows = self._commands.look(queue)
        if self._declare(queue, {kept.name for kept in rows}):
            now_ms, rows = self._commands.look(queue)
        return min((self._guarded(queue, kept, now_ms) for kept in rows), default=_LOOK_EVERY_MS)

    def _declare(self, queue: str, kept: set[str]) -> bool:
        """Write what code declares: once, and when it is gone. The process started last decides."""
        changed = False
        for at, schedule in self._declared.items():
            if at[0] == queue and (at not in self._known or schedule.name not in kept):
                self._broker.inspector.schedules.put(schedule, declared=True)
                self._known.add(at)
                changed = True
        return changed

    def _guarded(self, queue: str, kept: Kept, now_ms: int) -> int:
        try:
            return self._attend(queue, kept, now_ms)
        except BrokerConnectionError:
            raise
        except msgspec.DecodeError as error:
            self._logger.error("Schedule %r of queue %r is none: %s", kept.name, queue, error)
        except Exception:
            self._logger.exception(
                "Schedule %r of queue %r failed, trying again.", kept.name, queue
            )
        return _LOOK_EVERY_MS

    def _attend(self, queue: str, kept: Kept, now_ms: int) -> int:
        if kept.seen not in (None, "unfinished", kept.noted):
            self._commands.note(queue, kept.name, str(kept.seen))
        if kept.paused or (kept.declared and (queue, kept.name) not in self._declared):
            return _LOOK_EVERY_MS
        schedule = decode(kept.definition)
        waits = kept.waiting_ms is not None and self._fire(schedule, kept, kept.waiting_ms)
        for at_ms in self._due(schedule, kept, now_ms):
            waits = self._fire(schedule, kept, at_ms) or waits
        if waits:
            return _SOON_MS
        next_ms = schedule.times.next_ms(max(now_ms, kept.mark_ms))
        return _LOOK_EVERY_MS if next_ms is None else min(_LOOK_EVERY_MS, next_ms - now_ms)

    def _due(self, schedule: Schedule, kept: Kept, now_ms: int) -> list[int]:
        """The fires to make, oldest first; those that are not made are let go by."""
        kept_missed = {"skip": 0, "once": 1, "all": schedule.misfire_limit}[schedule.misfire]
        most = kept_missed + MISSED_AFTER_MS // schedule.times.grain_ms + 2
        times = schedule.times.latest(kept.mark_ms, now_ms, most)
        on_time = [at_ms for at_ms in times if at_ms >= now_ms - MISSED_AFTER_MS]
        missed = times[: len(times) - len(on_time)]
        if schedule.misfire == "once" and on_time:
            kept_missed = 0  # that one is the run which makes up for all before
        dropped = missed[: max(0, len(missed) - kept_missed)]
        if dropped:
            self._pass_over(schedule, kept, dropped)
        return missed[len(dropped) :] + on_time

    def _pass_over(self, schedule: Schedule, kept: Kept, missed: list[int]) -> None:
        if self._commands.pass_over(schedule.queue, kept, missed[-1], len(missed)):
            self._logger.warning(
                "Schedule %r missed its fire at %d and maybe others before; misfire=%r.",
                schedule.name,
                missed[-1],
                schedule.misfire,
            )

    def _fire(self, schedule: Schedule, kept: Kept, at_ms: int) -> bool:
        """Make the fire; returns whether it waits for another one's end."""
        message = schedule.fire(at_ms)
        fired = self._broker.producer.fire(
            message,
            lambda token, new: self._commands.fire(
                schedule.queue, kept, at_ms, schedule.overlap, token, new
            ),
        )
        if fired is Fired.FIRED:
            self._logger.info("Fired %r for %d as %s.", schedule.name, at_ms, message.message_id)
        elif fired is Fired.SKIPPED:
            self._logger.warning("Skipped %r for %d: the last run goes on.", schedule.name, at_ms)
        return fired is Fired.WAITING
