"""Periodic actors: `periodic=cron(…)` for periodiq's command line, with its faults mended."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

import pendulum

from broker.schedule import Misfire, Overlap, Timing


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
