"""What holds for a queue over all workers together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QueueLimit:
    """Bounds of one queue in all processes; None is none."""

    #: The most jobs that are in flight at once.
    global_concurrency: int | None = None
    #: The most jobs that start in ``per_ms``. An idle queue saves up one period's worth.
    rate: int | None = None
    per_ms: int = 1_000
