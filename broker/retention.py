"""Which records of ended jobs and which dead letters stay."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keep:
    """The newest ``count``, none older than ``age_ms``; None is no bound."""

    count: int | None = None
    age_ms: int | None = None

    @property
    def bounds(self) -> tuple[int, int]:
        """Count and age as the scripts take them, -1 for none."""
        return -1 if self.count is None else self.count, -1 if self.age_ms is None else self.age_ms


@dataclass(frozen=True, slots=True)
class Retention:
    """What a queue keeps of jobs that completed or were cancelled, and of those that are dead.

    Whatever it says, a producer that repeats an enqueue whose reply was lost is recognised
    for a minute. No record of a dead job outlives its dead letter.
    """

    completed: Keep = Keep(1_000, 86_400_000)
    failed: Keep = Keep()


@dataclass(frozen=True, slots=True)
class DeadRetention:
    """Which dead letters a queue keeps: the newest ``count``, none older than ``age_ms``."""

    age_ms: int
    count: int | None = None
