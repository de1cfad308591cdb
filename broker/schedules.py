"""Schedules as operators and applications see them: list, add, remove, pause, resume, run now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
from dramatiq.message import Message

from broker.checks import check_choice
from broker.configuration import HIDDEN
from broker.errors import InvalidOption, UnknownSchedule
from broker.schedule import Misfire, Overlap, Schedule, ScheduleInfo
from broker.schedule_commands import Kept, ScheduleCommands

if TYPE_CHECKING:
    from broker.broker import StreamsBroker

_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(Schedule).decode


class Schedules:
    """The schedules of a namespace, those that code declares and those added at run time.

    A name stands for one schedule of the namespace. When its actor has moved to another queue, what
    was declared before lies in the old one still, and may be fired there by code of before: what
    is done by the name is done to both. Schedulers see changes within five seconds.
    """

    def __init__(self, broker: StreamsBroker, commands: ScheduleCommands) -> None:
        self._broker = broker
        self._commands = commands

    def list(self) -> list[ScheduleInfo]:
        """Every schedule, by name."""
        found = [info for queue in self._queues() for info in self._of(queue)]
        return sorted(found, key=lambda info: (info.schedule.name, info.schedule.queue))

    def get(self, name: str) -> ScheduleInfo:
        """The schedule of this name; of several that of its actor's queue, or who fired last.

        Raises:
          UnknownSchedule: there is none.
        """

        def standing(found: tuple[ScheduleInfo, Kept]) -> tuple[bool, int]:
            schedule, kept = found[0].schedule, found[1]
            actor = self._broker.actors.get(schedule.actor)
            return actor is not None and actor.queue_name == schedule.queue, kept.mark_ms

        found = [
            (_info(kept, now_ms), kept)
            for now_ms, rows in map(self._commands.look, self._queues())
            for kept in rows
            if kept.name == name
        ]
        if not found:
            raise _unknown(name)
        return max(found, key=standing)[0]

    def add(
        self,
        name: str,
        actor: str,
        cron: str,
        *,
        timezone: str = "UTC",
        misfire: Misfire = "once",
        misfire_limit: int = 100,
        overlap: Overlap = "allow",
        args: Iterable[Any] = (),
        kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> Schedule:
        """Add a schedule, or put it in the place of the one that was added by this name.

        ``options`` are those of the actor's messages, as in ``broker_priority=2``. When it
        returns the schedule is kept in Redis; schedulers that are running take it up.

        Raises:
          InvalidOption: names the field, its value and the rule. Nothing was added.
          Whatever the actor raises for arguments that it can't take.
        """
        check_choice("actor", actor, sorted(self._broker.actors))
        message = self._broker.actors[actor].message_with_options(
            args=tuple(args), kwargs=kwargs or {}, **options
        )
        schedule = Schedule(
            name=name,
            queue=message.queue_name,
            actor=actor,
            cron=cron,
            timezone=timezone,
            misfire=misfire,
            misfire_limit=misfire_limit,
            overlap=overlap,
            args=message.args,
            kwargs=message.kwargs,
            options=message.options,
        )
        self._broker.producer.check(message)
        if self._broker.codec.seals(message) and (message.args or message.kwargs):
            rule = "must be empty for an encrypted job: a schedule is kept in clear"
            raise InvalidOption("args", HIDDEN, rule)
        self._require_free(name, message.queue_name)
        if not self.put(schedule, declared=False):
            raise InvalidOption("name", name, "is taken by a schedule that the code declares")
        return schedule

    def _require_free(self, name: str, queue: str) -> None:
        for info in self.list():
            if info.schedule.name == name and info.schedule.queue != queue:
                rule = f"is taken by a schedule of queue {info.schedule.queue!r}; remove that first"
                raise InvalidOption("name", name, rule)

    def put(self, schedule: Schedule, *, declared: bool) -> bool:
        """Keep a schedule; False if code declares another one of its name."""
        definition = encode(schedule)
        times = f"{schedule.cron} {schedule.timezone}"
        grain_ms = schedule.times.grain_ms
        self._broker.commands.register(schedule.queue)
        return self._commands.put(
            schedule.queue, schedule.name, definition, times, grain_ms, declared=declared
        )

    def remove(self, name: str) -> None:
        """Forget a schedule; jobs that it has enqueued stay.

        One that code declares comes back with the next scheduler that has that code.

        Raises:
          UnknownSchedule: there is none.
        """
        for queue in self._named(name):
            self._commands.remove(queue, name)

    def pause(self, name: str) -> bool:
        """Fire it no more; False if it was paused already. Raises as :meth:`get`."""
        return self._each(name, self._commands.pause)

    def resume(self, name: str) -> bool:
        """Fire it again; the times in between are not made up for. False if it was not paused.

        Raises as :meth:`get`.
        """
        return self._each(name, self._commands.resume)

    def run_now(self, name: str) -> Message[Any]:
        """Enqueue its message at once, beside its fires: paused or not, whatever still runs.

        Raises as :meth:`get`, and what ``enqueue`` raises.
        """
        schedule = self.get(name).schedule
        return self._broker.enqueue(schedule.message(str(uuid4()), {}))

    def _queues(self) -> Iterable[str]:
        return sorted({*self._broker.inspector.queues(), *self._broker.queues})

    def _each(self, name: str, do: Callable[[str, str], bool | None]) -> bool:
        changed = [do(queue, name) for queue in self._named(name)]
        if all(each is None for each in changed):
            raise _unknown(name)
        return any(changed)

    def _named(self, name: str) -> tuple[str, ...]:
        queues = tuple(
            queue
            for queue in self._queues()
            if any(kept.name == name for kept in self._commands.look(queue)[1])
        )
        if not queues:
            raise _unknown(name)
        return queues

    def _of(self, queue: str) -> Iterator[ScheduleInfo]:
        now_ms, rows = self._commands.look(queue)
        for kept in rows:
            # What is no schedule is no reason to show none; schedulers log it.
            with suppress(msgspec.DecodeError):
                yield _info(kept, now_ms)


def encode(schedule: Schedule) -> bytes:
    """The schedule as it is kept: equal ones give equal bytes."""
    return _encode(schedule)


def decode(definition: bytes) -> Schedule:
    """The inverse of :func:`encode`.

    Raises:
      msgspec.DecodeError: it is no schedule.
    """
    return _decode(definition)


def _unknown(name: str) -> UnknownSchedule:
    return UnknownSchedule("name", name, "must be that of a schedule")


def _info(kept: Kept, now_ms: int) -> ScheduleInfo:
    schedule = decode(kept.definition)
    held = kept.paused or kept.closed
    return ScheduleInfo(
        schedule=schedule,
        declared=kept.declared,
        paused=kept.paused,
        closed=kept.closed,
        next_fire_ms=schedule.times.next_ms(max(kept.mark_ms, now_ms if held else 0)),
        last_fire_ms=kept.fired_ms,
        last_message_id=kept.last,
        outcome=kept.seen or kept.noted,
        waiting_fire_ms=kept.waiting_ms,
        skipped=kept.skipped,
        missed=kept.missed,
    )
