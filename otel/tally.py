"""Counters that cost a job next to nothing: counted here, and read by the SDK when it collects."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from otel.labels import OVERFLOW, Labels

#: Combinations of attributes that are told apart; the others are counted together.
MOST: Final = 1_000


class Tally:
    """A counter. Thread-safe; as many series as there are combinations of values, up to 1,000."""

    def __init__(self, meter: Meter, name: str, *, unit: str, description: str) -> None:
        self._counts: dict[Labels, int] = {}
        self._lock = threading.Lock()
        meter.create_observable_counter(name, [self._observe], unit=unit, description=description)

    def add(self, labels: Labels, count: int = 1) -> None:
        """Count so many more with these attributes."""
        with self._lock:
            known = labels in self._counts
            key = labels if known or len(self._counts) < MOST else OVERFLOW
            self._counts[key] = self._counts.get(key, 0) + count

    def _observe(self, options: CallbackOptions) -> Iterable[Observation]:
        with self._lock:
            counts = list(self._counts.items())
        return [Observation(count, dict(labels)) for labels, count in counts]
