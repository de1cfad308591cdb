"""A meter provider whose histograms are ours: :mod:`otel.histogram`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource

from otel import names
from otel.histogram import Histogram, added
from otel.metrics import BUCKETS, BUCKETS_TO_AN_HOUR

_TO_AN_HOUR = frozenset({names.PROCESS_DURATION, names.WAIT_DURATION})


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
        """As a meter's ``create_histogram``; runs and waits have buckets up to an hour."""
        bounds = explicit_bucket_boundaries_advisory or BUCKETS
        if name in _TO_AN_HOUR:
            bounds = BUCKETS_TO_AN_HOUR
        return self._known.setdefault(name, Histogram(name, unit, description, bounds))

    def added(self, data: MetricsData) -> MetricsData:
        """What was collected, with all of these."""
        return added(data, list(self._known.values()))


class Periodic(PeriodicExportingMetricReader):
    """Exports ours too."""

    def __init__(self, exporter: Any, histograms: Histograms) -> None:
        self._histograms = histograms
        super().__init__(exporter)

    def _receive_metrics(self, metrics_data: MetricsData, *args: Any, **kwargs: Any) -> None:
        super()._receive_metrics(self._histograms.added(metrics_data), *args, **kwargs)


class Scraped(PrometheusMetricReader):
    """Shows ours too."""

    def __init__(self, registry: Any, histograms: Histograms) -> None:
        self._histograms = histograms
        super().__init__(registry=registry)

    def _receive_metrics(self, metrics_data: MetricsData, *args: Any, **kwargs: Any) -> None:
        super()._receive_metrics(self._histograms.added(metrics_data), *args, **kwargs)


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
