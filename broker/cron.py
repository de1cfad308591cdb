"""Cron expressions in a time zone: when is the next time after this one?"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from broker.errors import InvalidOption

_NAMED: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_DAY: Final = timedelta(days=1)
#: The longest that an expression may never match: 29 February on a given weekday takes 40 years.
_MOST_DAYS: Final = 366 * 50


class Cron:
    """The times of one expression, by Debian cron's rules, in unix ms.

    Five fields are minute, hour, day of month, month and day of week; six begin with the
    second. Sunday is 0, 7 or ``sun``. When day of month and day of week are both restricted
    (neither begins with ``*``), a day need match only one of them.

    When the clocks change, an expression whose minute and hour both name times runs once a
    day as ever: a time that is skipped runs at the first moment after the gap, and one that
    comes twice runs the first time. Where the minute or the hour begins with ``*`` it runs at
    every matching time that the clock shows, so twice or not at all.

    Raises:
      InvalidOption: the expression or the time zone can't be used.
    """

    def __init__(self, expression: str, timezone: str = "UTC") -> None:
        self.expression = expression
        self.timezone = timezone
        self._zone = _zone(timezone)
        plain = _NAMED.get(expression.strip().lower(), expression)
        self._fields = _parsed(expression, plain)
        self._seconds = sorted(self._fields.seconds)
        self._minutes = sorted(self._fields.minutes)
        self._hours = sorted(self._fields.hours)
        minute, hour = self._fields.parts[1:3]
        self._by_the_clock = minute.startswith("*") or hour.startswith("*")
        #: How far apart two times are at least, in ms.
        self.grain_ms: Final = 1_000 if len(plain.split()) == 6 else 60_000
        self.next_ms = lru_cache(maxsize=8)(self._next_ms)

    def __str__(self) -> str:
        return self.expression

    def _next_ms(self, after_ms: int) -> int | None:
        """The first time later than this; None when there is none in fifty years."""
        after = datetime.fromtimestamp(after_ms / 1000, UTC)
        # A time in a gap over midnight belongs to the day before the one it runs on.
        yesterday = after.astimezone(self._zone).date() - _DAY
        for day in self._days(yesterday):
            for at in self._times(day, after):
                if at > after:
                    return round(at.timestamp()) * 1000
        return None

    def latest(self, after_ms: int, until_ms: int, most: int) -> list[int]:
        """The last ``most`` times that are later than ``after_ms`` and not than ``until_ms``."""
        span_ms = self.grain_ms * most
        while True:
            begin_ms = max(after_ms, until_ms - span_ms)
            found = self._between(begin_ms, until_ms)
            if begin_ms == after_ms or len(found) >= most:
                return found[-most:]
            span_ms *= 4

    def _between(self, after_ms: int, until_ms: int) -> list[int]:
        found: list[int] = []
        at_ms = self._next_ms(after_ms)
        while at_ms is not None and at_ms <= until_ms:
            found.append(at_ms)
            at_ms = self._next_ms(at_ms)
        return found

    def _days(self, day: date) -> Iterator[date]:
        last = day + timedelta(days=_MOST_DAYS)
        while day < last:
            if day.month not in self._fields.months:
                day = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
            else:
                if self._fields.match_day(day):
                    yield day
                day += _DAY

    def _times(self, day: date, after: datetime) -> Iterator[datetime]:
        """The times of a day in their order; of those up to ``after`` some are left out."""
        if not self._by_the_clock:
            return (self._moved(wall) for wall in self._walls(day, after, fold=0))
        if self._instant(day, time()) + _DAY == self._instant(day + _DAY, time()):
            return (self._at(wall) for wall in self._walls(day, after, fold=0))
        return heapq.merge(*(self._shown(day, after, fold=fold) for fold in (0, 1)))

    def _walls(self, day: date, after: datetime, *, fold: int) -> Iterator[datetime]:
        for hour in self._hours:
            end = self._instant(day, time(hour, 59, 59, fold=fold))
            if end <= after - _DAY or (self._by_the_clock and end <= after):
                continue
            for minute in self._minutes:
                for second in self._seconds:
                    wall = time(hour, minute, second, fold=fold)
                    yield datetime.combine(day, wall, self._zone)

    def _shown(self, day: date, after: datetime, *, fold: int) -> Iterator[datetime]:
        """The matching times that the clock really shows; with ``fold`` those it shows again."""
        for wall in self._walls(day, after, fold=fold):
            at = self._at(wall)
            real = at.astimezone(self._zone).replace(tzinfo=None) == wall.replace(tzinfo=None)
            if real and (fold == 0 or at != self._at(wall.replace(fold=0))):
                yield at

    def _moved(self, wall: datetime) -> datetime:
        """The time itself, or the first one after the gap that it is in."""
        at = self._at(wall)
        if at.astimezone(self._zone).replace(tzinfo=None) == wall.replace(tzinfo=None):
            return at
        low, high = self._at(wall.replace(fold=1)), at  # around the change, in this order
        while high - low > timedelta(seconds=1):
            middle = low + timedelta(seconds=(high - low) // timedelta(seconds=2))
            if self._offset(middle) == self._offset(high):
                high = middle
            else:
                low = middle
        return high

    def _offset(self, at: datetime) -> timedelta | None:
        return at.astimezone(self._zone).utcoffset()

    def _instant(self, day: date, wall: time) -> datetime:
        return self._at(datetime.combine(day, wall, self._zone))

    def _at(self, wall: datetime) -> datetime:
        return wall.astimezone(UTC)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError, AttributeError):
        rule = "must be a time zone of the IANA database, as in Europe/Berlin"
        raise InvalidOption("timezone", name, rule) from None


def _parsed(expression: str, plain: str) -> CronSim:
    """cronsim's reading of the expression: its fields, and which days match."""
    try:
        return CronSim(plain, datetime(2000, 1, 1, tzinfo=UTC))
    except (CronSimError, ValueError, TypeError, AssertionError) as error:
        # cronsim's own checks cover what it documents; the rest trips over its types.
        reason = str(error) or "no such combination"
        rule = f"must be five or six cron fields or one of {', '.join(_NAMED)} ({reason})"
        raise InvalidOption("cron", expression, rule) from None
