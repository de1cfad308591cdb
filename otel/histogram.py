"""Histograms that cost a job a microsecond: counted here, and added to what the SDK exports.

The SDK checks, copies and hashes the attributes of every measurement, which is more than all
else that a job is measured by. These are made for attributes that are the same object each
time; what comes out is the same.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from opentelemetry import metrics, trace
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

#: Series of one histogram; what has other attributes is counted together.
MOST: Final = 1_000


class _Series:
    """The values of one combination of attributes."""

    __slots__ = ("buckets", "exemplars", "largest", "smallest", "sum")

    def __init__(self, buckets: int) -> None:
        self.buckets = [0] * buckets
        self.sum = 0.0
        self.smallest = float("inf")
        self.largest = float("-inf")
        #: The latest of each bucket since the last collection.
        self.exemplars: dict[int, Exemplar] = {}


class Histogram(metrics.Histogram):
    """Cumulative, with explicit buckets and exemplars of sampled traces. Thread-safe."""

    def __init__(self, name: str, unit: str, description: str, bounds: Sequence[float]) -> None:
        self.name, self._unit, self._description = name, unit, description
        self._bounds = tuple(bounds)
        self._series: dict[Labels, _Series] = {}
        self._lock = threading.Lock()
        self._begin_ns = time.time_ns()

    def record(
        self,
        amount: float,
        attributes: Mapping[str, Any] | None = None,
        context: Context | None = None,
    ) -> None:
        """Count a value; quick if ``attributes`` are :class:`otel.labels.Labels`."""
        labels = attributes if type(attributes) is Labels else Labels(attributes or {})
        bucket = bisect_left(self._bounds, amount)
        span = trace.get_current_span(context).get_span_context()
        sampled = span.trace_flags & 1
        with self._lock:
            series = self._series.get(labels) or self._add(labels)
            series.buckets[bucket] += 1
            series.sum += amount
            if amount < series.smallest:
                series.smallest = amount
            if amount > series.largest:
                series.largest = amount
            if sampled:
                series.exemplars[bucket] = Exemplar(
                    {}, amount, time.time_ns(), span.span_id, span.trace_id
                )

    def _add(self, labels: Labels) -> _Series:
        key = labels if len(self._series) < MOST else OVERFLOW
        return self._series.setdefault(key, _Series(len(self._bounds) + 1))

    def collect(self) -> Metric | None:
        """The values so far, as the SDK's exporters take them; None without any."""
        now_ns = time.time_ns()
        with self._lock:
            points = [self._point(labels, each, now_ns) for labels, each in self._series.items()]
        if not points:
            return None
        data = HistogramData(points, AggregationTemporality.CUMULATIVE)
        return Metric(self.name, self._description, self._unit, data)

    def _point(self, labels: Labels, series: _Series, now_ns: int) -> HistogramDataPoint:
        exemplars, series.exemplars = list(series.exemplars.values()), {}
        return HistogramDataPoint(
            attributes=dict(labels),
            start_time_unix_nano=self._begin_ns,
            time_unix_nano=now_ns,
            count=sum(series.buckets),
            sum=series.sum,
            bucket_counts=tuple(series.buckets),
            explicit_bounds=self._bounds,
            min=series.smallest,
            max=series.largest,
            exemplars=exemplars,
        )


def added(data: MetricsData, histograms: Iterable[Histogram]) -> MetricsData:
    """What the SDK has collected, with these histograms in our scope."""
    found = [metric for each in histograms if (metric := each.collect()) is not None]
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
