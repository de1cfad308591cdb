"""What holds for a queue, or for a key within it, over all workers together."""

from __future__ import annotations

from dataclasses import dataclass

from broker.checks import check_int
from broker.errors import InvalidOption

# A start that comes so much after its time does not put off those behind it.
_LATE_US = 5_000
# From the server's word to the job's first line. More is rare and can't be bounded.
_ON_THE_WAY_US = 5_000
_LONGEST_KEY = 512


@dataclass(frozen=True, slots=True)
class QueueLimit:
    """Bounds of one queue in all processes; None is none."""

    #: The most jobs that are in flight at once.
    global_concurrency: int | None = None
    #: The most jobs that start in ``per_ms``. An idle queue saves up one period's worth.
    rate: int | None = None
    per_ms: int = 1_000


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How long a queue may become: its jobs that are ready, in flight or scheduled."""

    max_depth: int
    #: How long, in ms, a producer waits for room before it is refused; 0: not at all.
    block_ms: int = 0


@dataclass(frozen=True, slots=True)
class Rate:
    """At most ``limit`` starts in any ``per_ms`` milliseconds, evenly spaced.

    With ``burst`` so many start at once after a quiet time; then up to ``limit + burst - 1`` fall
    into one period. 10 ms of each period are kept free, so that starts which are a little late
    don't break the bound.

    Raises:
      InvalidOption: an argument is no integer of at least 1, or the burst is above the limit.
    """

    limit: int
    per_ms: int
    burst: int = 1

    def __post_init__(self) -> None:
        for name in ("limit", "per_ms", "burst"):
            check_int(f"rate.{name}", getattr(self, name), 1)
        if self.burst > self.limit:
            raise InvalidOption("rate.burst", self.burst, f"must be at most the limit {self.limit}")

    @property
    def interval_us(self) -> int:
        """Microseconds from one start to the next.

        By GCRA, starts 1 and n are at least ``(n - burst) * interval - late`` apart; for
        n = limit + burst that must be the period and what a start may take on its way.
        """
        return -(-(self.per_ms * 1000 + _LATE_US + _ON_THE_WAY_US) // self.limit)

    @property
    def tolerance_us(self) -> int:
        """By how many microseconds a start may be early by the interval alone."""
        return _LATE_US + (self.burst - 1) * self.interval_us


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """The limits of one job: a rate and a concurrency, each by a key; None is none."""

    rate_key: str | None = None
    rate: Rate | None = None
    concurrency_key: str | None = None
    #: The most jobs of ``concurrency_key`` that run at once.
    concurrency: int | None = None


def check_key(name: str, value: object) -> str:
    """The key of a limit.

    Raises:
      InvalidOption: no string, empty, or too long.
    """
    if not isinstance(value, str) or not 1 <= len(value) <= _LONGEST_KEY:
        raise InvalidOption(name, value, f"must be a string of 1 to {_LONGEST_KEY} characters")
    return value
