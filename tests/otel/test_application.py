"""Spans under the application's whole list: limits, cancelling, shutdown, schedules, flows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import dramatiq
import pytest
from dramatiq.middleware import ShutdownNotifications, TimeLimit
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from bench.otlp import Received, Span
from broker import Rate, StreamsBroker
from broker.embedded import EmbeddedValkey
from broker.schedule import Schedule
from broker.settings import Settings
from middleware.scheduler import Scheduler
from middleware.stack import stack
from otel.metrics import Metrics
from otel.tracing import RunEnding, Tracing
from pipelines.flow import Flow
from pipelines.flows import start as start_flow
from tests.conftest import NewBroker, StartWorker
from tests.waiting import eventually, wait_for


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def broker(
    valkey_server: EmbeddedValkey,
    new_broker: NewBroker,
    new_provider: Callable[..., TracerProvider],
    reader: InMemoryMetricReader,
) -> StreamsBroker:
    """The application's list, between telemetry."""
    tracing = Tracing(tracer_provider=new_provider())
    metrics = Metrics(meter_provider=MeterProvider([reader]))
    innermost = [metrics, tracing.ending]
    middleware = [tracing, *stack(Settings.load({}), innermost=innermost)]
    made = new_broker("streams", valkey_server.url, middleware=middleware)
    assert isinstance(made, StreamsBroker)
    return made


def endings(spans: list[Span]) -> list[str]:
    return [span.attributes["headrace.outcome"] for span in spans]


def points(reader: InMemoryMetricReader, name: str) -> list[Any]:
    data = reader.get_metrics_data()
    assert data is not None
    metrics = data.resource_metrics[0].scope_metrics[0].metrics
    return [each for metric in metrics if metric.name == name for each in metric.data.data_points]


def runs_measured(reader: InMemoryMetricReader) -> int:
    """How many runs took time, by the histogram."""
    return sum(point.count for point in points(reader, "messaging.process.duration"))


def sent(reader: InMemoryMetricReader) -> dict[str, int]:
    """How many messages were sent, by queue."""
    found = points(reader, "messaging.client.sent.messages")
    return {each.attributes["messaging.destination.name"]: each.value for each in found}


def test_a_job_over_its_rate_is_parked_and_runs_later_as_the_same_attempt(
    broker: StreamsBroker,
    received: Received,
    start_worker: StartWorker,
    reader: InMemoryMetricReader,
) -> None:
    @dramatiq.actor(queue_name="mail", rate_key="all", rate=Rate(1, 150))
    def greet() -> None:
        pass

    greet.send()
    greet.send()
    start_worker(broker, threads=1)
    runs = received.wait_for_spans("process mail", 3)
    assert endings(runs) == ["completed", "parked", "completed"]
    assert {run.status for run in runs} == {"UNSET"}
    assert [run.attributes["headrace.attempt"] for run in runs] == [1, 1, 1]
    assert runs[1].attributes["messaging.message.id"] == runs[2].attributes["messaging.message.id"]
    eventually(lambda: broker.inspector.size("mail"), lambda left: left == 0)
    assert runs_measured(reader) == 2, "what is turned away takes no time"


def test_a_job_that_is_cancelled_while_it_runs_is_no_error(
    broker: StreamsBroker, received: Received, start_worker: StartWorker
) -> None:
    running, let_go = threading.Event(), threading.Event()

    @dramatiq.actor(queue_name="mail")
    def greet() -> None:
        running.set()
        while not let_go.wait(0.02):
            pass

    message = greet.send()
    start_worker(broker, threads=1)
    wait_for(running, "the job")
    assert broker.jobs.cancel(message)
    (run,) = received.wait_for_spans("process mail")
    let_go.set()
    assert (endings([run]), run.status, run.events) == (["cancelled"], "UNSET", [])


def test_a_job_that_a_shutdown_interrupts_is_released_and_keeps_its_attempt(
    broker: StreamsBroker, received: Received, start_worker: StartWorker
) -> None:
    running, let_go = threading.Event(), threading.Event()

    @dramatiq.actor(queue_name="mail", notify_shutdown=True, max_retries=3)
    def greet() -> None:
        running.set()
        while not let_go.wait(0.02):
            pass

    greet.send()
    worker = start_worker(broker, threads=1)
    wait_for(running, "the job")
    worker.stop()
    (first,) = received.wait_for_spans("process mail")
    assert (endings([first]), first.status, first.events) == (["released"], "UNSET", [])
    let_go.set()
    start_worker(broker, threads=1)
    first, second = received.wait_for_spans("process mail", 2)
    assert endings([second]) == ["completed"]
    assert second.attributes["headrace.attempt"] == 1
    assert second.trace_id == first.trace_id


def test_an_interrupt_too_late_for_its_job_hits_no_hook(broker: StreamsBroker) -> None:
    """The last in the list hears of a job's end first: whom it may still interrupt hears later."""
    last = [type(each) for each in broker.middleware[-3:]]
    assert last == [RunEnding, ShutdownNotifications, TimeLimit]


def test_what_a_schedule_sends_is_a_trace_of_its_own_linked_to_the_fire(
    broker: StreamsBroker, received: Received, start_worker: StartWorker
) -> None:
    @dramatiq.actor(queue_name="mail")
    def greet() -> None:
        pass

    schedule = Schedule(name="tick", queue="mail", actor="greet", cron="* * * * * *")
    scheduler = Scheduler(broker, [schedule])
    start_worker(broker, threads=1)
    eventually(
        lambda: scheduler.tick() and received.spans("process mail"), bool, what="a fire's run"
    )
    run = received.spans("process mail")[0]
    sends = {send.span_id: send for send in received.spans("send mail")}
    (link,) = run.links
    assert run.parent_id == ""
    assert sends[link.span_id].kind == "PRODUCER"
    assert sends[link.span_id].trace_id != run.trace_id


def test_a_fire_that_is_not_made_is_not_counted_as_sent(
    broker: StreamsBroker, received: Received, reader: InMemoryMetricReader
) -> None:
    @dramatiq.actor(queue_name="mail")
    def greet() -> None:
        pass

    once = Schedule(name="tick", queue="mail", actor="greet", cron="* * * * * *", overlap="skip")
    scheduler = Scheduler(broker, [once])
    eventually(
        lambda: scheduler.tick() and len(received.spans("send mail")),
        lambda tried: tried >= 2,
        what="a second fire, while the first one's message waits",
    )
    assert sent(reader) == {"mail": 1}


def test_the_steps_of_a_flow_are_one_trace(
    broker: StreamsBroker,
    received: Received,
    start_worker: StartWorker,
    reader: InMemoryMetricReader,
) -> None:
    @dramatiq.actor(queue_name="one")
    def one() -> int:
        return 1

    @dramatiq.actor(queue_name="two")
    def two(number: int) -> None:
        pass

    flow = Flow("both").step("one", one.message())
    flow.step("two", two.message_with_options(), after="one")
    start_flow(flow, broker=broker)
    start_worker(broker)
    (first,) = received.wait_for_spans("process one")
    (second,) = received.wait_for_spans("process two")
    (batch,) = received.spans("send")
    created = {span.name: span for span in received.spans() if span.name.startswith("create ")}
    assert batch.attributes["messaging.batch.message_count"] == 2
    assert "messaging.destination.name" not in batch.attributes
    assert {span.parent_id for span in created.values()} == {batch.span_id}
    assert first.parent_id == created["create one"].span_id
    assert second.parent_id == created["create two"].span_id
    assert created["create two"].attributes["messaging.destination.name"] == "two"
    assert sent(reader) == {"one": 1, "two": 1}
