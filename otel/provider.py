"""A meter provider whose histograms are ours: :mod:`otel.histogram`; exporters that end in time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import Histogram as SdkHistogram
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import (
    Aggregation,
    DefaultAggregation,
    ExplicitBucketHistogramAggregation,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from otel import names
from otel.histogram import Histogram, added
from otel.metrics import BUCKETS


class Histograms:
    """The histograms of a process, by name: the same one for the same name."""

    def __init__(self) -> None:
        self._known: dict[str, Histogram] = {}

    def create(
        self,
        name: str,
        unit: str = "",
        description: str = "",
        *,
        explicit_bucket_boundaries_advisory: Sequence[float] | None = None,
    ) -> Histogram:
        """As a meter's ``create_histogram``."""
        bounds = explicit_bucket_boundaries_advisory or BUCKETS
        return self._known.setdefault(name, Histogram(name, unit, description, bounds))

    def added(self, data: MetricsData, since_ns: int = 0) -> MetricsData:
        """What was collected, with all of these and their exemplars since then (unix ns)."""
        return added(data, list(self._known.values()), since_ns)


class Share:
    """The histograms for one reader: the exemplars are those since its own last collection."""

    def __init__(self, histograms: Histograms) -> None:
        self._histograms = histograms
        self._since_ns = 0

    def added(self, data: MetricsData) -> MetricsData:
        """What the reader has collected, with all of the histograms."""
        since_ns, self._since_ns = self._since_ns, time.time_ns()
        return self._histograms.added(data, since_ns)


def takes_ours(exporter: Any) -> bool:
    """Whether an exporter is content with histograms that are cumulative, in buckets of our own.

    One that reads by itself never sees them.
    """
    if isinstance(exporter, MetricReader):
        return False
    # As the reader that the SDK would make for it looks for them.
    temporality = (exporter._preferred_temporality or {}).get(SdkHistogram)
    aggregation = (exporter._preferred_aggregation or {}).get(SdkHistogram)
    return temporality in (None, AggregationTemporality.CUMULATIVE) and _is_plain(aggregation)


def _is_plain(aggregation: Aggregation | None) -> bool:
    if isinstance(aggregation, ExplicitBucketHistogramAggregation):
        return aggregation._boundaries is None
    return aggregation is None or isinstance(aggregation, DefaultAggregation)


class Patience:
    """How long the exit of a process waits for its exporters, all of them together."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._deadline: float | None = None

    def left_ms(self) -> float:
        """What is left of it; the clock starts with the first call."""
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + self._seconds
        return max(0.0, self._deadline - now) * 1000


class Batches(BatchSpanProcessor):
    """Exports spans in batches; at the end it waits no longer than its patience."""

    def __init__(self, exporter: Any, patience: Patience, *, most: int | None, batch: int | None):
        super().__init__(exporter, max_queue_size=most, max_export_batch_size=batch)
        self._patience = patience

    def shutdown(self) -> None:
        """The SDK's would wait for half a minute, and can't be told."""
        self._batch_processor.shutdown(int(self._patience.left_ms()))


class Periodic(PeriodicExportingMetricReader):
    """Exports ours too; at the end it waits no longer than its patience."""

    def __init__(self, exporter: Any, histograms: Histograms, patience: Patience) -> None:
        self._share = Share(histograms)
        self._patience = patience
        super().__init__(exporter)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """As the SDK's."""
        super().shutdown(min(timeout_millis, self._patience.left_ms()), **kwargs)

    def _receive_metrics(self, metrics_data: MetricsData, *args: Any, **kwargs: Any) -> None:
        super()._receive_metrics(self._share.added(metrics_data), *args, **kwargs)


class Scraped(PrometheusMetricReader):
    """Shows ours too."""

    def __init__(self, registry: Any, histograms: Histograms) -> None:
        self._share = Share(histograms)
        super().__init__(registry=registry)

    def _receive_metrics(self, metrics_data: MetricsData, *args: Any, **kwargs: Any) -> None:
        super()._receive_metrics(self._share.added(metrics_data), *args, **kwargs)


class Provider(MeterProvider):
    """The SDK's, but for the histograms of our scope."""

    def __init__(
        self, readers: Iterable[MetricReader], resource: Resource, histograms: Histograms
    ) -> None:
        self._histograms = histograms
        super().__init__(list(readers), resource=resource)

    def get_meter(self, name: str, *args: Any, **kwargs: Any) -> Meter:
        """A meter; ours makes histograms of ours."""
        meter = super().get_meter(name, *args, **kwargs)
        if name == names.SCOPE:
            meter.create_histogram = self._histograms.create  # type: ignore[method-assign]
        return meter
