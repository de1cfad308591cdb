"""The metrics of sends, runs and settlements, as a collector gets them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.errors import RateLimitExceeded
from dramatiq.middleware import AgeLimit, CurrentMessage, Retries
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from bench.otlp import Point, Received, Receiver
from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from broker.event_source import Source
from broker.intake_commands import IntakeCommands
from broker.schedule import Schedule
from otel.labels import Labels
from otel.metrics import BUCKETS, BUCKETS_TO_AN_HOUR, Metrics
from otel.provider import Histograms, Patience, Periodic, Provider
from otel.tally import MOST, Tally
from otel.tracing import Tracing
from otel.utilization import Utilization
from tests.conftest import NewBroker, StartWorker
from tests.waiting import eventually


class Measured:
    """Brokers of one process that is measured, and its exports."""

    def __init__(self, receiver: Receiver, make: Callable[..., StreamsBroker], whose: str) -> None:
        self._make = make
        self._received = receiver.received
        exporter = OTLPMetricExporter(endpoint=receiver.url, insecure=True)
        resource = Resource({"service.instance.id": str(id(self))})
        self.provider: MeterProvider
        if whose == "ours":
            histograms = Histograms()
            self.provider = Provider(
                [Periodic(exporter, histograms, Patience(3))], resource, histograms
            )
        else:
            self.provider = MeterProvider([PeriodicExportingMetricReader(exporter)], resource)

    def broker(self, **options: Any) -> StreamsBroker:
        """A broker whose queues are looked at every 50 ms."""
        tracing = Tracing(tracer_provider=TracerProvider())
        middleware = [
            tracing,
            CurrentMessage(),
            AgeLimit(),
            Retries(max_retries=1, min_backoff=1, max_backoff=1),
            Metrics(meter_provider=self.provider, gauge_interval_ms=50),
            tracing.ending,
        ]
        return self._make(middleware=middleware, **options)

    def export(self) -> Received:
        """Collect and send now."""
        self.provider.force_flush()
        return self._received

    def wait_for(self, metric: str, holds: Callable[[dict[Any, float]], bool], *by: str) -> None:
        """Export until the sums of the metric by these attributes are as wanted."""
        eventually(lambda: sums(self.export().points(metric), *by), holds, what=metric)


def sums(points: list[Point], *by: str) -> dict[Any, float]:
    """Values or counts added up by attributes."""
    found: dict[Any, float] = {}
    for point in points:
        key = tuple(point.attributes.get(name) for name in by)
        found[key] = found.get(key, 0) + point.value + point.count
    return found


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver("grpc") as started:
        yield started


@pytest.fixture(params=["ours", "the SDK's"])
def whose(request: pytest.FixtureRequest) -> str:
    """Whose histograms: what comes out is the same."""
    found: str = request.param
    return found


@pytest.fixture
def new_measured(
    receiver: Receiver, valkey_server: EmbeddedValkey, new_broker: NewBroker, whose: str
) -> Iterator[Callable[[], Measured]]:
    """Make what stands for one process each: `new_measured().broker()`."""
    made: list[Measured] = []

    def make(**options: Any) -> StreamsBroker:
        broker = new_broker("streams", valkey_server.url, **options)
        assert isinstance(broker, StreamsBroker)
        return broker

    def new() -> Measured:
        made.append(Measured(receiver, make, whose))
        return made[-1]

    yield new
    for each in made:
        each.provider.shutdown()


@pytest.fixture
def measured(new_measured: Callable[[], Measured]) -> Measured:
    return new_measured()


def test_runs_are_counted_by_how_they_ended(measured: Measured, start_worker: StartWorker) -> None:
    broker = measured.broker()

    @dramatiq.actor(queue_name="mail")
    def greet(how: str) -> None:
        if how == "fails once" and not CurrentMessage.get_current_message().options.get("retries"):  # type: ignore[union-attr]
            raise LookupError
        if how == "fails":
            raise ValueError
        if how == "is parked":
            raise RateLimitExceeded("too many")

    for how in ("succeeds", "succeeds", "fails once", "is parked"):
        greet.send(how)
    greet.send_with_options(args=("fails",), max_retries=0)
    old = greet.message_with_options(args=("is skipped",), max_age=1)
    broker.enqueue(old.copy(message_timestamp=1))
    start_worker(broker, threads=1)
    expected = {
        ("completed", None): 3,
        ("failed", "LookupError"): 1,
        ("failed", "ValueError"): 1,
        ("parked", None): 2,
        ("skipped", None): 1,
    }
    measured.wait_for(
        "messaging.client.consumed.messages",
        lambda found: found == expected,
        "headrace.outcome",
        "error.type",
    )
    received = measured.export()
    (consumed, *_) = received.points("messaging.client.consumed.messages")
    assert consumed.unit == "{message}"
    assert consumed.attributes["messaging.system"] == "redis"
    assert consumed.attributes["messaging.operation.name"] == "process"
    assert consumed.attributes["messaging.destination.name"] == "mail"
    assert consumed.attributes["headrace.actor"] == "greet"
    # What was skipped took no time.
    durations = received.points("messaging.process.duration")
    by_error = {(None,): 5, ("LookupError",): 1, ("ValueError",): 1}
    assert sums(durations, "error.type") == by_error
    assert durations[0].unit == "s"
    assert durations[0].bounds == list(BUCKETS_TO_AN_HOUR)
    assert all(0 <= point.sum < 20 for point in durations)
    assert sum(received.points("headrace.message.wait.duration")[0].buckets) == 7
    measured.wait_for("headrace.retries", lambda found: found == {("mail",): 2}, *BY_QUEUE)
    parked = received.points("headrace.limiter.parked")
    assert sums(parked, "headrace.actor") == {("greet",): 2}


BY_QUEUE = ("messaging.destination.name",)


def test_sends_are_counted_and_timed_those_that_fail_too(measured: Measured) -> None:
    broker = measured.broker()

    @dramatiq.actor(queue_name="mail")
    def greet(text: str) -> None:
        pass

    greet.send("one")
    broker.enqueue_many([greet.message("two"), greet.message("three")])
    broker.max_message_bytes = 100
    with pytest.raises(ValueError, match="bytes"):
        greet.send("x" * 200)
    received = measured.export()
    sent = received.points("messaging.client.sent.messages")
    assert sums(sent, "error.type") == {(None,): 3, ("broker.errors.MessageTooLarge",): 1}
    durations = received.points("messaging.client.operation.duration")
    by = ("messaging.operation.name", "error.type")
    assert sums(durations, *by) == {
        ("send", None): 2,
        ("send", "broker.errors.MessageTooLarge"): 1,
    }
    assert durations[0].bounds == list(BUCKETS)


def test_settlements_are_measured_in_groups(measured: Measured, start_worker: StartWorker) -> None:
    broker = measured.broker()

    @dramatiq.actor(queue_name="mail")
    def greet(number: int) -> None:
        pass

    broker.enqueue_many([greet.message(number) for number in range(50)])
    start_worker(broker)

    def settled() -> float:
        points = measured.export().points("headrace.settle.batch.size")
        return sum(point.sum for point in points)

    eventually(settled, lambda count: count == 50, what="settlements")
    durations = measured.export().points("messaging.client.operation.duration")
    (batches,) = measured.export().points("headrace.settle.batch.size")
    assert sums(durations, "messaging.operation.name")[("settle",)] == batches.count


def test_a_lost_lease_is_counted_as_stale_and_its_other_run_as_redelivered(
    measured: Measured,
    start_worker: StartWorker,
    valkey_server: EmbeddedValkey,
) -> None:
    broker = measured.broker()
    stream = broker.commands.keys("mail").ready[0]

    @dramatiq.actor(queue_name="mail")
    def greet() -> None:
        lease = CurrentMessage.get_current_message().lease  # type: ignore[union-attr]
        if lease.count == 1:
            with redis.Redis.from_url(valkey_server.url) as client:
                # Somebody else takes it over, and hands it back.
                client.xclaim(stream, "workers", "thief", 0, [lease.entry_id])
            broker.commands.reclaim_consumer("mail", 0, "thief", 5, 10)

    greet.send()
    start_worker(broker, threads=1)
    measured.wait_for("headrace.settle.stale", lambda found: found == {("mail",): 1}, *BY_QUEUE)
    measured.wait_for("headrace.redeliveries", lambda found: found == {("mail",): 1}, *BY_QUEUE)


def test_an_exemplar_leads_from_a_duration_to_its_trace(
    measured: Measured, start_worker: StartWorker
) -> None:
    broker = measured.broker()
    traces: list[str] = []

    @dramatiq.actor(queue_name="mail")
    def greet() -> None:
        span = trace.get_current_span().get_span_context()
        traces.append(trace.format_trace_id(span.trace_id))

    greet.send()
    start_worker(broker)
    broker.join("mail", interval=10)
    received = measured.export()  # once: each export has the exemplars since the one before
    for metric in ("messaging.process.duration", "headrace.message.wait.duration"):
        (point,) = received.points(metric)
        assert point.exemplars == traces


class Kept(MetricExporter):
    """Keeps the exemplars of each export."""

    def __init__(self) -> None:
        super().__init__()
        self.traces: list[list[int | None]] = []

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 0, **kwargs: Any
    ) -> MetricExportResult:
        (scope,) = metrics_data.resource_metrics[0].scope_metrics
        points = [p for m in scope.metrics if m.name == "made" for p in m.data.data_points]
        self.traces.append([e.trace_id for p in points for e in p.exemplars])
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 0) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 0, **kwargs: Any) -> None:
        pass


def test_each_reader_gets_the_exemplars_since_its_own_last_collection() -> None:
    histograms, exporters = Histograms(), (Kept(), Kept())
    first, second = readers = [Periodic(each, histograms, Patience(0)) for each in exporters]
    provider = Provider(readers, Resource({}), histograms)
    meter = provider.get_meter("headrace")
    made = meter.create_histogram("made")
    meter.create_counter("other").add(1)

    def record(trace_id: int, amount: float) -> None:
        span = trace.SpanContext(trace_id, 1, False, trace.TraceFlags(1))
        made.record(amount, context=trace.set_span_in_context(trace.NonRecordingSpan(span)))

    record(1, 0.001)
    first.collect()
    record(2, 5.0)
    first.collect()
    second.collect()
    second.collect()
    assert exporters[0].traces == [[1], [2]]
    assert exporters[1].traces == [[1, 2], []]
    provider.shutdown()


def test_one_process_of_all_reports_the_queues(
    new_measured: Callable[[], Measured], receiver: Receiver, start_worker: StartWorker
) -> None:
    processes = [new_measured() for _ in range(3)]
    for process in processes:
        last = process.broker()
        start_worker(last, queues={"nothing of this"})

    @dramatiq.actor(queue_name="mail")
    def greet() -> None:
        pass

    greet.send()
    greet.send()
    greet.send_with_options(delay=60_000)
    every_second = Schedule(name="tick", queue="mail", actor="greet", cron="* * * * * *")
    last.inspector.schedules.put(every_second, declared=False)
    stream = f"{last.namespace}:posted"
    IntakeCommands(last.client, last.namespace, last.commands.keys).create(
        Source(stream, "headrace"), "0"
    )
    last.client.xadd(stream, {"text": "nobody reads this"}, id="1-0")

    def exported() -> list[Point]:
        for process in processes:
            process.export()
        return receiver.received.points("headrace.queue.messages")

    points = eventually(exported, lambda found: sums(found) == {(): 3}, what="the gauges")
    assert sums(points, "headrace.state") == {
        ("ready",): 2,
        ("scheduled",): 1,
        ("due",): 0,
        ("in_flight",): 0,
        ("dead",): 0,
    }
    assert len({point.resource["service.instance.id"] for point in points}) == 1
    (age,) = receiver.received.points("headrace.queue.oldest.age")
    assert 0 <= age.value < 20
    (consumers,) = receiver.received.points("headrace.queue.consumers")
    assert consumers.value == 0
    eventually(
        lambda: exported() and receiver.received.points("headrace.schedule.overdue"),
        lambda found: sums(found).get((), 0) > 1,  # nobody makes the fires
        what="an overdue schedule",
    )
    (lag,) = receiver.received.points("headrace.intake.lag")
    assert lag.value == 1
    (waiting,) = receiver.received.points("headrace.intake.oldest.age")
    assert waiting.value > 1_000_000_000
    (used,) = receiver.received.points("headrace.server.memory.used")
    assert used.value > 100_000
    assert sums(receiver.received.points("headrace.worker.threads")) == {(): 6}


def test_another_process_reports_when_the_one_that_leads_has_gone(
    new_measured: Callable[[], Measured], receiver: Receiver, start_worker: StartWorker
) -> None:
    first, second = new_measured(), new_measured()
    worker = start_worker(first.broker())

    @dramatiq.actor(queue_name="mail")
    def greet() -> None:
        pass

    greet.send()
    first.wait_for("headrace.queue.messages", bool)
    start_worker(second.broker())
    second.export()
    worker.stop()

    def exported() -> set[str]:
        for process in (first, second):
            process.export()
        points = receiver.received.points("headrace.queue.messages")
        return {point.resource["service.instance.id"] for point in points}

    eventually(exported, lambda found: found == {str(id(second))}, what="the other process")


def test_made_up_names_become_no_series() -> None:
    reader = InMemoryMetricReader()
    tally = Tally(MeterProvider([reader]).get_meter("x"), "made", unit="1", description="")
    for number in range(MOST + 500):
        tally.add(Labels({"name": str(number)}))
    tally.add(Labels({"name": "0"}))
    data = reader.get_metrics_data()
    assert data is not None
    points = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    values = {frozenset((point.attributes or {}).items()): point.value for point in points}  # type: ignore[union-attr]
    assert len(values) == MOST + 1
    assert values[frozenset({("otel.metric.overflow", True)})] == 500
    assert values[frozenset({("name", "0")})] == 2


def test_utilization_is_the_share_of_time_spent_in_jobs() -> None:
    now = 100.0
    utilization = Utilization(lambda: now)
    assert utilization.share() == 0, "no worker yet"
    utilization.threads = 2
    utilization.began()
    now = 104.0
    assert utilization.share() == 0.5, "one thread of two, still running"
    now = 104.5
    assert utilization.share() == 0.5, "too soon for another average"
    utilization.ended()
    now = 108.0
    assert utilization.share() == pytest.approx(0.5 / 8)
    utilization.ended()
    now = 110.0
    assert utilization.share() == 0


def test_our_histograms_are_the_sdks() -> None:
    """The same values give the same points, whoever has counted them."""
    values = [0.0, 0.005, 0.0051, 3.0, 10.0, 10.1, 1e6]
    points = []
    for ours in (True, False):
        reader, histograms = InMemoryMetricReader(), Histograms()
        meter = MeterProvider([reader]).get_meter("headrace")
        create = histograms.create if ours else meter.create_histogram
        made = create("made", "s", "Text.", explicit_bucket_boundaries_advisory=BUCKETS)
        meter.create_counter("other").add(1)
        for value in values:
            made.record(value, {"queue": "mail"})
            made.record(value, Labels({"queue": "files"}))
        made.record(1.0)
        data = reader.get_metrics_data()
        assert data is not None
        (scope,) = histograms.added(data).resource_metrics[0].scope_metrics
        (metric,) = [metric for metric in scope.metrics if metric.name == "made"]
        assert (metric.unit, metric.description) == ("s", "Text.")
        found = [dataclasses.asdict(point) for point in metric.data.data_points]
        for point in found:
            point.pop("start_time_unix_nano")
            point.pop("time_unix_nano")
        points.append(sorted(found, key=lambda point: str(point["attributes"])))
    assert points[0] == points[1]
    assert len(points[0]) == 3


def test_made_up_names_become_no_histograms() -> None:
    histogram = Histograms().create("made")
    for number in range(MOST + 500):
        histogram.record(1.0, Labels({"name": str(number)}))
    metric = histogram.collect()
    assert metric is not None
    counts = {frozenset(point.attributes.items()): point.count for point in metric.data.data_points}  # type: ignore[union-attr]
    assert len(counts) == MOST + 1
    assert counts[frozenset({("otel.metric.overflow", True)})] == 500
