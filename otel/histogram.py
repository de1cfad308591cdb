"""Histograms that cost a job a microsecond: counted here, and added to what the SDK exports.

The SDK checks, copies and hashes the attributes of every measurement, which is more than all
else that a job is measured by. Here whoever measures asks for the series of its attributes
once; a value is noted then, and put into its bucket with many others. What comes out is the same.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from opentelemetry import metrics
from opentelemetry.context import Context
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    Metric,
    MetricsData,
    ScopeMetrics,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData

from otel import names
from otel.labels import OVERFLOW, Labels
from otel.propagation import sampled

#: Series of one histogram; what has other attributes is counted together.
MOST: Final = 1_000


#: Values of a series that are noted before they are put into their buckets.
_MOST_NOTED: Final = 256


class Series:
    """The values of one combination of attributes. Thread-safe."""

    __slots__ = (
        "_bounds",
        "_buckets",
        "_exemplars",
        "_largest",
        "_lock",
        "_noted",
        "_smallest",
        "_sum",
    )

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._lock = threading.Lock()
        self._noted: list[float] = []
        self._buckets = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._smallest = float("inf")
        self._largest = float("-inf")
        #: The latest of each bucket.
        self._exemplars: dict[int, Exemplar] = {}

    def record(self, amount: float, context: Context | None = None) -> None:
        """Count a value, with the current span for its exemplar if that is sampled."""
        noted = self._noted
        noted.append(amount)  # atomic, so that most values take no lock
        span = sampled(context)
        if span is not None:
            exemplar = Exemplar({}, amount, time.time_ns(), span.span_id, span.trace_id)
            with self._lock:
                self._exemplars[bisect_left(self._bounds, amount)] = exemplar
        if len(noted) >= _MOST_NOTED:
            with self._lock:
                self._sort()

    def _sort(self) -> None:
        values = self._noted[:]
        del self._noted[: len(values)]  # what came in the meantime is behind these
        bounds, buckets = self._bounds, self._buckets
        for value in values:
            buckets[bisect_left(bounds, value)] += 1
            self._sum += value
        self._smallest = min(self._smallest, *values)
        self._largest = max(self._largest, *values)

    def point(
        self, labels: Labels, begin_ns: int, now_ns: int, since_ns: int
    ) -> HistogramDataPoint | None:
        """The values so far, and the exemplars since then; None without any."""
        with self._lock:
            if self._noted:
                self._sort()
            exemplars = [e for e in self._exemplars.values() if e.time_unix_nano >= since_ns]
            count = sum(self._buckets)
            if not count:
                return None
            return HistogramDataPoint(
                attributes=dict(labels),
                start_time_unix_nano=begin_ns,
                time_unix_nano=now_ns,
                count=count,
                sum=self._sum,
                bucket_counts=tuple(self._buckets),
                explicit_bounds=self._bounds,
                min=self._smallest,
                max=self._largest,
                exemplars=exemplars,
            )


class Histogram(metrics.Histogram):
    """Cumulative, with explicit buckets and exemplars of sampled traces. Thread-safe."""

    def __init__(self, name: str, unit: str, description: str, bounds: Sequence[float]) -> None:
        self.name, self._unit, self._description = name, unit, description
        self._bounds = tuple(bounds)
        self._series: dict[Labels, Series] = {}
        self._lock = threading.Lock()
        self._begin_ns = time.time_ns()

    def record(
        self,
        amount: float,
        attributes: Mapping[str, Any] | None = None,
        context: Context | None = None,
    ) -> None:
        """Count a value; quicker if ``attributes`` are :class:`otel.labels.Labels`."""
        labels = attributes if type(attributes) is Labels else Labels(attributes or {})
        self.of(labels).record(amount, context)

    def of(self, labels: Labels) -> Series:
        """Where the values with these attributes are counted; the same for the same ones."""
        found = self._series.get(labels)
        if found is not None:
            return found
        with self._lock:
            key = labels if len(self._series) < MOST else OVERFLOW
            return self._series.setdefault(key, Series(self._bounds))

    def collect(self, since_ns: int = 0) -> Metric | None:
        """The values so far, as the SDK's exporters take them; None without any.

        Exemplars are those since then (unix ns).
        """
        now_ns = time.time_ns()
        with self._lock:
            series = list(self._series.items())
        found = [each.point(labels, self._begin_ns, now_ns, since_ns) for labels, each in series]
        points = [point for point in found if point is not None]
        if not points:
            return None
        data = HistogramData(points, AggregationTemporality.CUMULATIVE)
        return Metric(self.name, self._description, self._unit, data)


def added(data: MetricsData, histograms: Iterable[Histogram], since_ns: int = 0) -> MetricsData:
    """What the SDK has collected, with these histograms in our scope."""
    found = [metric for each in histograms if (metric := each.collect(since_ns)) is not None]
    return MetricsData(
        [
            replace(each, scope_metrics=[_with(scope, found) for scope in each.scope_metrics])
            for each in data.resource_metrics
        ]
    )


def _with(scope: ScopeMetrics, found: Sequence[Metric]) -> ScopeMetrics:
    if scope.scope.name != names.SCOPE:
        return scope
    return replace(scope, metrics=[*scope.metrics, *found])
