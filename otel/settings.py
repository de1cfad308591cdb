"""The ``[telemetry]`` table of the settings, and what the OTEL_* variables say of exporting."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from broker.configuration import build, value_of
from broker.errors import SettingsError
from otel.propagation import Relation

AtLeastOne: TypeAlias = Annotated[int, Meta(ge=1)]
Signal: TypeAlias = Literal["traces", "metrics"]

_OTLP: Final = "otlp"
_OF_BATCHES: Final = ("OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE")
_PROTOCOLS: Final = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}


class PrometheusSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a process offers its metrics to a Prometheus that scrapes it."""

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    #: The first process of a host takes this one, the next the one after it, and so on.
    port: Annotated[int, Meta(ge=1, le=65_535)] = 9464
    #: How many ports from the first one on may be taken.
    ports: Annotated[int, Meta(ge=1, le=1_000)] = 64


class TelemetrySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is emitted. Where it goes is said by OpenTelemetry's own OTEL_* variables."""

    #: False: not a span nor a metric; the spec's ``monitoring.enabled``.
    enabled: bool = True
    #: False: no metrics; the spec's ``monitoring.metrics``.
    metrics: bool = True
    relation: Relation = "parent_and_link"
    #: Milliseconds. A message put off for longer does not make its run part of its trace.
    link_after: AtLeastOne = 60_000
    settle_spans: bool = False
    #: False: errors are recorded by their type alone, without text and traceback.
    exception_texts: bool = True
    #: Milliseconds between two looks at the queues, whichever process takes them.
    gauge_interval: AtLeastOne = 15_000
    prometheus: PrometheusSettings | None = None

    @classmethod
    def load(cls, table: Mapping[str, Any]) -> TelemetrySettings:
        """Validate the settings' ``[telemetry]`` table.

        Raises:
          SettingsError: a setting is unknown or breaks its rule; names field, value and rule.
        """
        return build(cls, table, at="telemetry")


class ExportSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What OTEL_* says that the SDK does not read by itself. Without any of it nothing is sent."""

    #: False: no SDK, whatever else is said.
    enabled: bool = True
    #: The exporters' names, as their packages register them.
    traces: tuple[str, ...]
    metrics: tuple[str, ...]
    #: Something is said of exemplars, which only the SDK's own histograms know.
    sdks_histograms: bool = False
    #: Something is said of how many spans wait, and how many go at once.
    sdks_batches: bool = False

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> ExportSettings:
        """Read the environment.

        Raises:
          SettingsError: OTEL_EXPORTER_OTLP_PROTOCOL is none that there is an exporter for.
        """
        environ = os.environ if environ is None else environ
        if (value_of(environ, "OTEL_SDK_DISABLED") or "").strip().lower() == "true":
            return cls(enabled=False, traces=(), metrics=())
        return cls(
            traces=_exporters(environ, "traces"),
            metrics=_exporters(environ, "metrics"),
            sdks_histograms=value_of(environ, "OTEL_METRICS_EXEMPLAR_FILTER") is not None,
            sdks_batches=any(value_of(environ, name) for name in _OF_BATCHES),
        )


def _exporters(environ: Mapping[str, str], signal: Signal) -> tuple[str, ...]:
    named = value_of(environ, f"OTEL_{signal.upper()}_EXPORTER")
    if named is None:
        # The conventions' default is otlp to localhost, which would be a warning a minute
        # for everybody without a collector.
        named = _OTLP if _has_endpoint(environ, signal) else "none"
    found = [name.strip() for name in named.split(",")]
    return tuple(
        _otlp(environ, signal) if name == _OTLP else name for name in found if name != "none"
    )


def _has_endpoint(environ: Mapping[str, str], signal: Signal) -> bool:
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
    return any(value_of(environ, name) for name in (own, "OTEL_EXPORTER_OTLP_ENDPOINT"))


def _otlp(environ: Mapping[str, str], signal: Signal) -> str:
    for name in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = value_of(environ, name)
        if protocol is not None:
            if protocol not in _PROTOCOLS:
                raise SettingsError(name, protocol, f"must be one of {', '.join(_PROTOCOLS)}")
            return _PROTOCOLS[protocol]
    return _PROTOCOLS["grpc"]
