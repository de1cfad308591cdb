"""Periodic actors: `periodic=cron(…)` for periodiq's command line, with its faults mended."""

from __future__ import annotations

import signal
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import pendulum
import periodiq
from dramatiq.actor import Actor
from dramatiq.broker import Broker
from dramatiq.middleware import Middleware, MiddlewareError

from broker import StreamsBroker
from broker.errors import InvalidOption
from broker.heartbeat import Heartbeat
from broker.schedule import Misfire, Overlap, Schedule, Timing
from middleware.scheduler import Scheduler


def cron(
    expression: str,
    *,
    timezone: str = "UTC",
    misfire: Misfire = "once",
    misfire_limit: int = 100,
    overlap: Overlap = "allow",
) -> CronTimes:
    """When an actor runs: ``@dramatiq.actor(periodic=cron("0 3 * * *"))``.

    The parameters are those of :class:`broker.schedule.Timing`.

    Raises:
      InvalidOption: names the field, its value and the rule.
    """
    return CronTimes(
        Timing(
            cron=expression,
            timezone=timezone,
            misfire=misfire,
            misfire_limit=misfire_limit,
            overlap=overlap,
        )
    )


class InvalidPeriodic(InvalidOption, MiddlewareError):
    """An actor's ``periodic`` can't be used; the actor was not declared."""


class Periodic(Middleware):
    """Lets actors be declared with ``periodic=…``; it takes the place of periodiq's middleware.

    periodiq's command line is the clock: it imports the actors, lists them and wakes up. What
    is due then is fired by a :class:`middleware.scheduler.Scheduler`, so that any number of
    them may run. A fire that waited in the queue runs, however late it is.

    Works on a StreamsBroker only; elsewhere periodiq does what it always did.
    """

    def __init__(self, heartbeat: Heartbeat | None = None) -> None:
        self._heartbeat = heartbeat
        self._specs: dict[str, CronTimes] = {}
        self._clock: _Clock | None = None

    @property
    def actor_options(self) -> set[str]:
        return {"periodic"}

    def before_declare_actor(self, broker: Broker, actor: Actor[Any, Any]) -> None:
        if "periodic" not in actor.options or not isinstance(broker, StreamsBroker):
            return
        spec = _own(actor.options["periodic"])
        self._specs[actor.actor_name] = spec
        if self._clock is None:
            self._clock = _Clock(broker, self._specs, self._heartbeat)
        actor.options["periodic"] = _Hand(self._clock, spec)


class _Clock:
    """One scheduler behind what periodiq holds of each actor."""

    def __init__(
        self, broker: StreamsBroker, specs: dict[str, CronTimes], heartbeat: Heartbeat | None
    ) -> None:
        self._broker = broker
        self._heartbeat = heartbeat
        self._specs = specs
        self._scheduler: Scheduler | None = None
        self._next = 0.0

    def tick(self) -> None:
        """Fire what is due, when it is time: periodiq asks once an actor."""
        if time.monotonic() < self._next:
            return
        if self._scheduler is None:  # not before all actors are declared
            _exit_when_terminated()
            self._broker.emit_after("scheduler_boot")
            schedules = map(self._schedule, self._specs)
            self._scheduler = Scheduler(self._broker, schedules, self._heartbeat)
        self._next = time.monotonic() + self._scheduler.tick() / 1000

    @property
    def wait_s(self) -> float:
        """Seconds until it is time again; more than none, or periodiq calls itself."""
        return max(0.001, self._next - time.monotonic())

    def _schedule(self, name: str) -> Schedule:
        timing, actor = self._specs[name].timing, self._broker.actors[name]
        return Schedule(
            name=name,
            queue=actor.queue_name,
            actor=name,
            cron=timing.cron,
            timezone=timing.timezone,
            misfire=timing.misfire,
            misfire_limit=timing.misfire_limit,
            overlap=timing.overlap,
            options=actor.message_with_options().options,  # the version of its payload
        )


def _exit_when_terminated() -> None:
    """Let SIGTERM end the program as its own end does: logs and telemetry write what is left."""
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    ):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())


class _Hand:
    """What periodiq's scheduler asks of an actor's spec, in its own words."""

    def __init__(self, clock: _Clock, spec: CronTimes) -> None:
        self._clock = clock
        self.spec = spec

    def __str__(self) -> str:
        return str(self.spec)

    def validate(self, now: datetime) -> bool:
        """Whether periodiq is to send the actor: never, since what is due is fired here."""
        self._clock.tick()
        return False

    def next_valid_date(self, now: datetime) -> pendulum.DateTime:
        """When periodiq is to wake up next."""
        return pendulum.now().add(seconds=self._clock.wait_s)


class CronTimes:
    """What periodiq asks of a spec, and may be given in the place of its own."""

    def __init__(self, timing: Timing) -> None:
        self.timing: Final = timing

    def __str__(self) -> str:
        return self.timing.cron

    def __repr__(self) -> str:
        return f"<CronTimes {self.timing.cron} {self.timing.timezone}>"

    def validate(self, date: datetime) -> bool:
        """Whether this is one of the times; seconds count only if the expression has them."""
        grain_ms = self.timing.times.grain_ms
        at_ms = _unix_ms(self._aware(date)) // grain_ms * grain_ms
        return self.timing.times.next_ms(at_ms - 1) == at_ms

    def next_valid_date(self, last: datetime) -> pendulum.DateTime:
        """The first time later than ``last``, in the schedule's zone.

        Raises:
          ValueError: there is none in fifty years.
        """
        at_ms = self.timing.times.next_ms(_unix_ms(self._aware(last)))
        if at_ms is None:
            raise ValueError(f"{self.timing.cron!r} has no time in the next fifty years")
        return pendulum.from_timestamp(at_ms / 1000, tz=self.timing.timezone)

    def _aware(self, date: datetime) -> datetime:
        return date if date.tzinfo is not None else date.replace(tzinfo=self._zone())

    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.timing.timezone)


def _unix_ms(date: datetime) -> int:
    return round(date.astimezone(UTC).timestamp() * 1000)


def _own(spec: object) -> CronTimes:
    if isinstance(spec, CronTimes):
        return spec
    if isinstance(spec, _Hand):  # the actor moves from another broker
        return spec.spec
    if isinstance(spec, periodiq.CronSpec):
        # As periodiq has it: the times are those of the machine's zone.
        try:
            return cron(_expression(spec), timezone=str(pendulum.now().timezone_name))
        except InvalidOption as error:
            raise InvalidPeriodic(f"periodic.{error.field}", error.value, error.rule) from None
    raise InvalidPeriodic("periodic", spec, "must be what cron() returns")


def _expression(spec: periodiq.CronSpec) -> str:
    if spec.parsed_from is not None:
        return str(spec.parsed_from)
    ranges = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
    return " ".join(
        "*" if values == list(range(least, most + 1)) else ",".join(map(str, values))
        for values, (least, most) in zip(spec.astuple(), ranges, strict=True)
    )
