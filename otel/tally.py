"""Counters that cost a job next to nothing: counted here, and read by the SDK when it collects."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from otel.labels import OVERFLOW, Labels

#: Combinations of attributes that are told apart; the others are counted together.
MOST: Final = 1_000


class Count:
    """How many there were with one combination of attributes. Thread-safe."""

    __slots__ = ("_lock", "value")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.value = 0

    def add(self, count: int = 1) -> None:
        """Count so many more."""
        with self._lock:
            self.value += count


class Tally:
    """A counter. Thread-safe; as many series as there are combinations of values, up to 1,000."""

    def __init__(self, meter: Meter, name: str, *, unit: str, description: str) -> None:
        self._counts: dict[Labels, Count] = {}
        self._lock = threading.Lock()
        meter.create_observable_counter(name, [self._observe], unit=unit, description=description)

    def add(self, labels: Labels, count: int = 1) -> None:
        """Count so many more with these attributes."""
        self.of(labels).add(count)

    def of(self, labels: Labels) -> Count:
        """Where those with these attributes are counted; the same for the same ones."""
        found = self._counts.get(labels)
        if found is not None:
            return found
        with self._lock:
            key = labels if len(self._counts) < MOST else OVERFLOW
            return self._counts.setdefault(key, Count())

    def _observe(self, options: CallbackOptions) -> Iterable[Observation]:
        with self._lock:
            counts = list(self._counts.items())
        return [Observation(each.value, dict(labels)) for labels, each in counts if each.value]
