"""The SDK of one process: set up after the fork, flushed before the end.

Everything that OpenTelemetry's OTEL_* variables say holds: endpoints, headers, protocol,
sampler, limits, batches, intervals, propagators, resource attributes.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points, version
from typing import Any, Final
from uuid import uuid4

from dramatiq import Broker
from dramatiq.logging import get_logger
from dramatiq.middleware import Middleware
from opentelemetry import metrics, trace
from opentelemetry.metrics._internal import _ProxyMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider

from broker.errors import SettingsError
from otel.prometheus import serve
from otel.provider import Batches, Histograms, Patience, Periodic, Provider, Scraped, takes_ours
from otel.settings import ExportSettings, TelemetrySettings

#: How long a flush, and the end of a process, wait for what is not exported yet, in seconds.
FLUSH_S: Final = 3.0

#: Spans that may wait for the exporter, and those that go at once, unless OTEL_BSP_* says other
#: numbers. A span takes 4 kB: the SDK's 2,048 would be a tenth of a worker's memory, held as soon
#: as a collector is away.
_MOST_WAITING: Final = 512
_BATCH: Final = 128


@dataclass(frozen=True, slots=True)
class Service:
    """What a process is to those who look at its telemetry."""

    #: As in ``chatgenius``; with the role it makes ``service.name``, ``chatgenius-worker``.
    namespace: str
    role: str
    environment: str


class Sdk:
    """The providers of this process: those made here, and the application's own in their place."""

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None,
        meter_provider: metrics.MeterProvider | None,
    ) -> None:
        self._tracer_provider = tracer_provider
        self._meter_provider = meter_provider
        self._logger = get_logger(__name__, type(self))

    @classmethod
    def set_up(cls, service: Service, settings: TelemetrySettings, export: ExportSettings) -> Sdk:
        """Make the global providers of this process, as far as there is somewhere to send to.

        Call it after the fork. A provider that is there already, the application's own or that
        of ``opentelemetry-instrument``, is left as it is, and flushed with ours.

        Raises:
          SettingsError: an exporter is not installed or can't be made, or the Prometheus endpoint
            can't be opened. Traces are set up by then, unless it is about theirs.
        """
        if not (settings.enabled and export.enabled):
            return cls(None, None)
        resource, patience = _resource(service), Patience(FLUSH_S)
        return cls(
            _set_up_traces(resource, export, patience),
            _set_up_metrics(resource, settings, export, patience) if settings.metrics else None,
        )

    @property
    def measures(self) -> bool:
        """Whether metrics go anywhere."""
        return self._meter_provider is not None

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Export what is left; False if that took longer than ``timeout_s``.

        Exporters try again for as long as they see fit, so they get a thread of their own.
        """
        deadline = time.monotonic() + timeout_s
        providers = (self._tracer_provider, self._meter_provider)
        # The API's providers have nothing to flush; only an SDK's have.
        flushes = [getattr(provider, "force_flush", None) for provider in providers]
        threads = [
            threading.Thread(target=flush, daemon=True) for flush in flushes if flush is not None
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        done = not any(thread.is_alive() for thread in threads)
        if not done:
            self._logger.warning("The last telemetry could not be exported in %.0f s.", timeout_s)
        return done


class ProcessSdk(Middleware):
    """Sets the SDK up in each process of ours, and flushes it when a worker has stopped.

    First in the list: its ``after_`` hook runs when everybody else has emitted their last.
    An ``atexit`` hook would not do, worker processes end without. ``set_up`` is given the
    process's role. What it can't set up, as an endpoint whose port another process has, is logged,
    and the rest goes on.
    """

    def __init__(self, set_up: Callable[[str], Sdk]) -> None:
        self._set_up = set_up
        self._sdk: Sdk | None = None
        self._logger = get_logger(__name__, type(self))

    def after_process_boot(self, broker: Broker) -> None:
        """The fork is behind us."""
        self._begin("worker")

    def after_scheduler_boot(self, broker: Broker) -> None:
        """periodiq forks nothing, and ends as any program does: the SDK flushes itself."""
        self._begin("scheduler")

    def after_program_boot(self, broker: Broker, role: str) -> None:
        """Of a command or the dashboard; it ends as a scheduler does."""
        self._begin(role)

    def after_worker_shutdown(self, broker: Broker, worker: Any) -> None:
        """Nothing runs any more and everything is settled."""
        if self._sdk is not None:
            self._sdk.flush()

    def _begin(self, role: str) -> None:
        try:
            self._sdk = self._set_up(role)
        except SettingsError as error:
            self._logger.error("Telemetry is not complete: %s", error)
            self._sdk = Sdk(trace.get_tracer_provider(), metrics.get_meter_provider())


def _set_up_traces(
    resource: Resource, export: ExportSettings, patience: Patience
) -> trace.TracerProvider | None:
    there = trace.get_tracer_provider()
    if not isinstance(there, trace.ProxyTracerProvider):
        return there
    if not export.traces:
        return None
    most, batch = (None, None) if export.sdks_batches else (_MOST_WAITING, _BATCH)
    provider = TracerProvider(resource=resource)
    for name in export.traces:
        exporter = _made("opentelemetry_traces_exporter", "OTEL_TRACES_EXPORTER", name)
        provider.add_span_processor(Batches(exporter, patience, most=most, batch=batch))
    trace.set_tracer_provider(provider)
    return provider


def _set_up_metrics(
    resource: Resource, settings: TelemetrySettings, export: ExportSettings, patience: Patience
) -> metrics.MeterProvider | None:
    there = metrics.get_meter_provider()
    if not isinstance(there, _ProxyMeterProvider):
        return there
    exporters = [
        _made("opentelemetry_metrics_exporter", "OTEL_METRICS_EXPORTER", name)
        for name in export.metrics
    ]
    histograms = Histograms()
    readers: list[MetricReader] = []
    if settings.prometheus is not None:
        readers.append(Scraped(serve(settings.prometheus), histograms))
    for made in exporters:
        is_reader = isinstance(made, MetricReader)
        readers.append(made if is_reader else Periodic(made, histograms, patience))
    if not readers:
        return None
    provider: MeterProvider
    if export.sdks_histograms or not all(map(takes_ours, exporters)):
        provider = MeterProvider(readers, resource=resource)
    else:
        provider = Provider(readers, resource, histograms)
    metrics.set_meter_provider(provider)
    return provider


def _made(group: str, variable: str, name: str) -> Any:
    for found in entry_points(group=group, name=name):
        try:
            return found.load()()
        except Exception as error:  # whatever an exporter may raise, a port that is taken say
            raise SettingsError(variable, name, f"can't be set up ({error})") from error
    raise SettingsError(variable, name, "is no exporter that is installed")


def _resource(service: Service) -> Resource:
    """The service and its process; what the environment says of either wins."""
    ours: Mapping[str, str | int] = {
        "service.name": f"{service.namespace}-{service.role}",
        "service.namespace": service.namespace,
        "service.version": version("headrace"),
        "service.instance.id": str(uuid4()),
        "deployment.environment.name": service.environment,
        "host.name": socket.gethostname(),
        "process.pid": os.getpid(),
    }
    said = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in ours.items() if name not in said})
