"""A real OTLP receiver, over gRPC and over HTTP, that keeps what it is sent: for demo and tests."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from google.protobuf.message import Message
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_service
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage

Attributes = dict[str, Any]

#: How long is waited for what must come, in seconds.
PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Link:
    """Where a link leads, and what it is."""

    trace_id: str
    span_id: str
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Event:
    """Something noted during a span, an exception for instance."""

    name: str
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Span:
    """A span as it came over the wire; ids in hex, ``parent_id`` empty for a root."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    trace_state: str
    attributes: Attributes
    links: list[Link]
    events: list[Event]
    status: str
    description: str
    start_ns: int
    end_ns: int
    resource: Attributes
    scope: str

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(slots=True)
class Point:
    """One value of a metric: a number, or a histogram's count, sum and buckets."""

    metric: str
    unit: str
    attributes: Attributes
    resource: Attributes
    value: float = 0
    count: int = 0
    sum: float = 0
    bounds: list[float] = field(default_factory=list)
    buckets: list[int] = field(default_factory=list)
    #: The traces that its exemplars lead to.
    exemplars: list[str] = field(default_factory=list)


class Received:
    """Everything that was sent, for tests that wait on it. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._spans: list[Span] = []
        #: The last export of each process, by its instance id.
        self._points: dict[str, list[Point]] = {}
        self.requests = 0

    def add_spans(self, request: trace_service.ExportTraceServiceRequest) -> None:
        spans = list(_spans(request))
        with self._changed:
            self.requests += 1
            self._spans += spans
            self._changed.notify_all()

    def add_metrics(self, request: metrics_service.ExportMetricsServiceRequest) -> None:
        points = list(_points(request))
        with self._changed:
            self.requests += 1
            for instance in {point.resource["service.instance.id"] for point in points}:
                self._points[instance] = [
                    p for p in points if p.resource["service.instance.id"] == instance
                ]
            self._changed.notify_all()

    def spans(self, name: str | None = None) -> list[Span]:
        """Those received so far, in the order of their beginnings."""
        with self._changed:
            found = [span for span in self._spans if name in (None, span.name)]
        return sorted(found, key=lambda span: span.start_ns)

    def points(self, metric: str) -> list[Point]:
        """A metric's values in the last export of each process."""
        with self._changed:
            return [p for points in self._points.values() for p in points if p.metric == metric]

    def wait_for_spans(self, name: str, count: int = 1) -> list[Span]:
        """Wait until there are ``count`` spans of this name.

        Raises:
          AssertionError: when there are not in time; it shows what there is.
        """
        self.wait_until(lambda: len(self.spans(name)) >= count, f"{count} x {name!r}")
        return self.spans(name)

    def wait_for_points(
        self, metric: str, holds: Callable[[list[Point]], bool] = bool
    ) -> list[Point]:
        """Wait until the metric's values are as wanted; by default, until there are any."""
        self.wait_until(lambda: holds(self.points(metric)), metric)
        return self.points(metric)

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until it holds, asked again whenever something is received.

        Raises:
          AssertionError: when it does not in time; it shows what there is.
        """
        with self._changed:
            if self._changed.wait_for(holds, PATIENCE_S):
                return
            spans = [span.name for span in self._spans]
            points = [p for points in self._points.values() for p in points]
        raise AssertionError(f"{what} was not received, only {spans} and {points}")


class Receiver:
    """An OTLP endpoint on loopback; a context manager. ``url`` is what OTEL_* variables want."""

    def __init__(self, protocol: str = "grpc") -> None:
        self.protocol = protocol
        self.received = Received()
        self.port = 0
        self._grpc: grpc.Server | None = None
        self._http: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process is told, to send everything here and soon."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": self.protocol,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_METRIC_EXPORT_INTERVAL": "250",
        }

    def __enter__(self) -> Receiver:
        if self.protocol == "grpc":
            self._start_grpc()
        else:
            self._start_http()
        return self

    def __exit__(self, *_: object) -> None:
        if self._grpc is not None:
            self._grpc.stop(None).wait()
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()

    def _start_grpc(self) -> None:
        received = self.received

        class Traces(trace_grpc.TraceServiceServicer):
            def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
                received.add_spans(request)
                return trace_service.ExportTraceServiceResponse()

        class Metrics(metrics_grpc.MetricsServiceServicer):
            def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
                received.add_metrics(request)
                return metrics_service.ExportMetricsServiceResponse()

        self._grpc = grpc.server(futures.ThreadPoolExecutor(2))
        # Generated, and without types.
        trace_grpc.add_TraceServiceServicer_to_server(Traces(), self._grpc)  # type: ignore[no-untyped-call]
        metrics_grpc.add_MetricsServiceServicer_to_server(Metrics(), self._grpc)  # type: ignore[no-untyped-call]
        self.port = self._grpc.add_insecure_port("127.0.0.1:0")
        self._grpc.start()

    def _start_http(self) -> None:
        received = self.received
        add: dict[str, tuple[type[Message], Callable[[Any], None]]] = {
            "/v1/traces": (trace_service.ExportTraceServiceRequest, received.add_spans),
            "/v1/metrics": (metrics_service.ExportMetricsServiceRequest, received.add_metrics),
        }

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                kind, keep = add[self.path]
                keep(kind.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, daemon=True).start()


def _spans(request: trace_service.ExportTraceServiceRequest) -> Iterator[Span]:
    for resource_spans in request.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield _span(span, resource, scope_spans.scope.name)


def _span(span: SpanMessage, resource: Attributes, scope: str) -> Span:
    return Span(
        name=span.name,
        kind=SpanMessage.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        trace_state=span.trace_state,
        attributes=_attributes(span.attributes),
        links=[
            Link(link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes))
            for link in span.links
        ],
        events=[Event(event.name, _attributes(event.attributes)) for event in span.events],
        status={0: "UNSET", 1: "OK", 2: "ERROR"}[span.status.code],
        description=span.status.message,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        resource=resource,
        scope=scope,
    )


def _points(request: metrics_service.ExportMetricsServiceRequest) -> Iterator[Point]:
    for resource_metrics in request.resource_metrics:
        resource = _attributes(resource_metrics.resource.attributes)
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                yield from _metric_points(metric, resource)


def _metric_points(metric: Metric, resource: Attributes) -> Iterator[Point]:
    for histogram in metric.histogram.data_points:
        yield Point(
            metric.name,
            metric.unit,
            _attributes(histogram.attributes),
            resource,
            count=histogram.count,
            sum=histogram.sum,
            bounds=list(histogram.explicit_bounds),
            buckets=list(histogram.bucket_counts),
            exemplars=[exemplar.trace_id.hex() for exemplar in histogram.exemplars],
        )
    for number in (*metric.sum.data_points, *metric.gauge.data_points):
        value = number.as_int if number.HasField("as_int") else number.as_double
        attributes = _attributes(number.attributes)
        yield Point(metric.name, metric.unit, attributes, resource, value=value)


def _attributes(pairs: Any) -> Attributes:
    return {each.key: _value(each.value) for each in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return None if kind is None else getattr(value, kind)
