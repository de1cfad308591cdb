"""What is emitted leaves nothing behind, however many jobs there are."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from dramatiq import Message
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from broker import StreamsBroker
from broker.delivery import Delivery, Lease
from otel.metrics import Metrics
from otel.provider import Histograms, Provider
from otel.tracing import Tracing

RUNS = 20_000
COLLECTED_EVERY = 10_000


class Gone(SpanExporter):
    """Takes everything and keeps nothing."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def test_runs_and_sends_leave_no_object_behind() -> None:
    spans = TracerProvider()
    spans.add_span_processor(BatchSpanProcessor(Gone()))
    tracing = Tracing(tracer_provider=spans)
    metrics = Metrics(meter_provider=Provider([InMemoryMetricReader()], Resource({}), Histograms()))
    broker = StreamsBroker(url="redis://127.0.0.1:1", middleware=[])

    def objects_after(runs: int) -> int:
        for number in range(runs):
            _run(broker, tracing, metrics, number)
        spans.force_flush()
        gc.collect()
        return len(gc.get_objects())

    objects_after(RUNS // 10)  # caches, buckets, the series of each actor
    before = objects_after(RUNS)
    assert objects_after(RUNS) - before < 100
    spans.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_memory_is_the_same_after_a_million_jobs_as_after_the_first_of_them() -> None:
    spans = TracerProvider()
    spans.add_span_processor(BatchSpanProcessor(Gone()))
    tracing = Tracing(tracer_provider=spans)
    reader, histograms = InMemoryMetricReader(), Histograms()
    metrics = Metrics(meter_provider=Provider([reader], Resource({}), histograms))
    broker = StreamsBroker(url="redis://127.0.0.1:1", middleware=[])

    def resident_mb(first: int, last: int) -> float:
        for number in range(first, last):
            _run(broker, tracing, metrics, number)
            if number % COLLECTED_EVERY == 0:
                data = reader.get_metrics_data()
                assert data is not None
                histograms.added(data)
        spans.force_flush()
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

    before = resident_mb(0, 200_000)
    assert resident_mb(200_000, 1_000_000) - before < 3  # MB: less than four bytes a job
    spans.shutdown()


def _run(broker: StreamsBroker, tracing: Tracing, metrics: Metrics, number: int) -> None:
    """What the worker calls for a run, which sends a message and sometimes fails."""
    flags = "01" if number % 10 == 0 else "00"
    options = {"traceparent": f"00-{number + 1:032x}-{number + 1:016x}-{flags}"}
    lease = Lease(0, b"1764000000000-0", 1, "host/1/2/3/4")
    delivery = Delivery(_message(f"m{number}", options), lease)
    error = ValueError(number) if number % 50 == 0 else None
    tracing.before_process_message(broker, delivery)
    metrics.before_process_message(broker, delivery)
    sent = [_message(f"n{number}", {})]
    tracing.before_send(broker, sent, None)
    metrics.before_send(broker, sent, None)
    metrics.after_send(broker, sent, None, sent=sent)
    tracing.after_send(broker, sent, None, sent=sent)
    tracing.ending.after_process_message(broker, delivery, exception=error)
    metrics.after_process_message(broker, delivery, exception=error)
    tracing.after_process_message(broker, delivery, exception=error)


def _message(id: str, options: dict[str, Any]) -> Message[None]:
    return Message("mail", "greet", (), {}, options, id)
