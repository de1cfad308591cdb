"""Telemetry as the middleware of a broker: what goes above everybody else, and what below."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import msgspec
from dramatiq.middleware import Middleware

from otel.metrics import Metrics
from otel.sdk import ProcessSdk, Sdk, Service
from otel.settings import ExportSettings, TelemetrySettings
from otel.tracing import Tracing

#: The role of a command, which ends at once: each one's metrics would be series of their own.
_COMMAND: Final = "cli"


@dataclass(frozen=True, slots=True)
class Layers:
    """The two ends of a broker's list of middleware; both are empty when telemetry is off."""

    above: list[Middleware] = field(default_factory=list)
    below: list[Middleware] = field(default_factory=list)


def layers(settings: TelemetrySettings, service: Service, export: ExportSettings) -> Layers:
    """New middleware for a new broker: ``[*above, *everything_else, *below]``.

    What interrupts the job's thread goes behind even that: an interrupt that comes too late for
    the job must not hit a lock of OpenTelemetry's.

    A process that is no worker is called by the role it has, whatever ``service`` says.
    """
    if not settings.enabled:
        return Layers()

    def set_up(role: str) -> Sdk:
        said = msgspec.structs.replace(settings, metrics=settings.metrics and role != _COMMAND)
        return Sdk.set_up(replace(service, role=role), said, export)

    tracing = Tracing(
        relation=settings.relation,
        link_after_ms=settings.link_after,
        settle_spans=settings.settle_spans,
        exception_texts=settings.exception_texts,
    )
    measuring = [Metrics(gauge_interval_ms=settings.gauge_interval)] if settings.metrics else []
    return Layers(
        above=[
            ProcessSdk(set_up),  # first: flushes last
            tracing,  # a run's span is current for all below
        ],
        below=[
            *measuring,  # the time of a run is the job's alone
            tracing.ending,  # last: ends the span before Retries decides
        ],
    )
