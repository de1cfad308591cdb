"""What is emitted for sends and runs, as a collector sees it."""

from __future__ import annotations

import asyncio
import re

import dramatiq
import pytest
from dramatiq.errors import RateLimitExceeded
from dramatiq.middleware import CurrentMessage
from opentelemetry import baggage, trace
from opentelemetry import context as active
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler

from bench.otlp import Received, Span
from broker import Rate, RateLimited, StreamsBroker
from broker.embedded import EmbeddedValkey
from middleware.encryption import Encryption
from middleware.keyring import Key, KeyRing
from middleware.rate_limits import RateLimits
from otel.tracing import Tracing
from tests.conftest import NewBroker, StartWorker
from tests.otel.conftest import Traced
from tests.waiting import eventually

REQUEST = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
REQUEST_TRACE, REQUEST_SPAN = REQUEST.split("-")[1:3]


def test_a_send_and_its_run_are_one_trace(
    traced: Traced, received: Received, start_worker: StartWorker, valkey_server: EmbeddedValkey
) -> None:
    broker = traced()

    @dramatiq.actor(queue_name="mail")
    def greet(name: str) -> None:
        pass

    message = greet.send_with_options(args=("you",), correlation_id="c-1", broker_priority=2)
    start_worker(broker)
    (run,) = received.wait_for_spans("process mail")
    (send,) = received.spans("send mail")

    assert (send.kind, send.parent_id, send.status) == ("PRODUCER", "", "UNSET")
    assert send.attributes == {
        "messaging.system": "redis",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "mail",
        "messaging.message.id": message.message_id,
        "messaging.message.conversation_id": "c-1",
        "server.address": "127.0.0.1",
        "server.port": valkey_server.port,
        "headrace.actor": "greet",
    }
    assert (run.kind, run.trace_id, run.parent_id) == ("CONSUMER", send.trace_id, send.span_id)
    wait_time = run.attributes.pop("headrace.wait_time")
    assert 0 <= wait_time < 20
    assert run.attributes == {
        "messaging.system": "redis",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "mail",
        "messaging.message.id": message.message_id,
        "messaging.message.conversation_id": "c-1",
        "messaging.client.id": broker.consumer_name,
        "messaging.consumer.group.name": "workers",
        "server.address": "127.0.0.1",
        "server.port": valkey_server.port,
        "headrace.actor": "greet",
        "headrace.attempt": 1,
        "headrace.delivery": 1,
        "headrace.level": 2,
        "headrace.outcome": "completed",
    }
    assert run.status == "UNSET"
    ((link_trace, link_span, link),) = [
        (link.trace_id, link.span_id, link.attributes) for link in run.links
    ]
    assert (link_trace, link_span) == (send.trace_id, send.span_id)
    assert link == {"headrace.link": "creation"}
    assert run.scope == send.scope == "headrace"


def test_the_span_of_a_run_is_current_in_the_job_and_what_it_sends_is_its_child(
    traced: Traced, received: Received, start_worker: StartWorker
) -> None:
    broker = traced()
    current: list[str] = []

    @dramatiq.actor(queue_name="inner")
    def inner() -> None:
        pass

    @dramatiq.actor(queue_name="outer")
    def outer() -> None:
        span = trace.get_current_span().get_span_context()
        current.append(trace.format_span_id(span.span_id))
        inner.send()

    outer.send()
    start_worker(broker)
    (inner_run,) = received.wait_for_spans("process inner")
    (outer_run,) = received.wait_for_spans("process outer")
    (inner_send,) = received.wait_for_spans("send inner")
    assert current == [outer_run.span_id]
    assert inner_send.parent_id == outer_run.span_id
    assert inner_run.trace_id == received.spans("send outer")[0].trace_id


def test_a_coroutine_on_the_loops_thread_has_the_span_of_its_run(
    traced: Traced, received: Received, start_worker: StartWorker
) -> None:
    broker = traced()
    current: dict[str, str] = {}

    @dramatiq.actor(queue_name="inner")
    def inner() -> None:
        pass

    @dramatiq.actor(queue_name="outer")
    async def outer(name: str) -> None:
        await asyncio.sleep(0)
        span = trace.get_current_span().get_span_context()
        current[name] = trace.format_span_id(span.span_id)
        inner.send()

    sent = {name: outer.send(name).message_id for name in ("one", "two")}
    start_worker(broker)
    runs = received.wait_for_spans("process outer", 2)
    received.wait_for_spans("process inner", 2)
    by_id = {run.attributes["messaging.message.id"]: run.span_id for run in runs}
    assert current == {name: by_id[id] for name, id in sent.items()}
    assert {send.parent_id for send in received.wait_for_spans("send inner", 2)} == set(
        by_id.values()
    )


def test_nothing_of_a_run_is_current_afterwards(
    traced: Traced, received: Received, start_worker: StartWorker
) -> None:
    broker = traced()

    @dramatiq.actor(queue_name="mail")
    def greet() -> None:
        pass

    with trace.use_span(_remote(REQUEST)):
        greet.send()
    start_worker(broker, threads=1)
    received.wait_for_spans("process mail")
    greet.send()
    _, second = received.wait_for_spans("process mail", 2)
    assert second.trace_id != REQUEST_TRACE


def test_a_failure_is_an_error_and_a_retry_links_to_the_attempt_before(
    traced: Traced, received: Received, start_worker: StartWorker
) -> None:
    broker = traced(max_retries=2)

    @dramatiq.actor(queue_name="mail")
    def greet() -> None:
        if CurrentMessage.get_current_message().options.get("retries", 0) < 2:  # type: ignore[union-attr]
            try:
                raise LookupError("no such address")
            except LookupError as error:
                raise ValueError("could not greet") from error

    greet.send()
    start_worker(broker)
    first, second, third = received.wait_for_spans("process mail", 3)
    (send,) = received.spans("send mail")
    assert [run.status for run in (first, second, third)] == ["ERROR", "ERROR", "UNSET"]
    assert first.description == "ValueError: could not greet"
    assert first.attributes["error.type"] == "LookupError"
    assert first.attributes["headrace.outcome"] == "failed"
    (event,) = first.events
    assert event.name == "exception"
    assert event.attributes["exception.type"] == "ValueError"
    assert event.attributes["exception.message"] == "could not greet"
    assert "no such address" in event.attributes["exception.stacktrace"]
    assert "error.type" not in third.attributes
    assert [run.attributes["headrace.attempt"] for run in (first, second, third)] == [1, 2, 3]
    # All attempts are in one trace, and each leads to the one before.
    assert {run.parent_id for run in (first, second, third)} == {send.span_id}
    assert _links(first) == {"creation": send.span_id}
    assert _links(second) == {"creation": send.span_id, "previous_attempt": first.span_id}
    assert _links(third) == {"creation": send.span_id, "previous_attempt": second.span_id}
    # The run has ended when its retry is prepared, and the retry is not a send.
    assert first.end_ns <= second.start_ns
    assert len(received.spans("send mail")) == 1


class Mute(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise LookupError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Mute(), "Mute: <LookupError in its __str__>"),
        (ValueError("half \ud800 a character"), "ValueError: half ? a character"),
        (ValueError("x" * 1_000_000), "ValueError: xx"),
    ],
    ids=["no text", "no unicode", "a megabyte"],
)
def test_a_failure_is_told_whatever_its_text_is(
    traced: Traced, received: Received, start_worker: StartWorker, error: Exception, text: str
) -> None:
    broker = traced()

    @dramatiq.actor(queue_name="mail")
    def greet() -> None:
        raise error

    greet.send()
    start_worker(broker)
    (run,) = received.wait_for_spans("process mail")
    assert (run.status, run.attributes["headrace.outcome"]) == ("ERROR", "failed")
    assert run.description.startswith(text)
    (event,) = run.events
    assert len(run.description) + len(event.attributes["exception.message"]) <= 4_000
    assert 0 < len(event.attributes["exception.stacktrace"]) <= 8_000


@pytest.mark.parametrize("encrypted", [False, True], ids=["by a setting", "of encrypted jobs"])
def test_texts_of_exceptions_can_be_left_out(
    traced: Traced, received: Received, start_worker: StartWorker, encrypted: bool
) -> None:
    broker = traced(exception_texts=encrypted)
    if encrypted:
        broker.add_middleware(Encryption(KeyRing([Key("k1", bytes(32))], "k1"), default=True))

    @dramatiq.actor(queue_name="mail")
    def greet() -> None:
        raise ValueError("card 4111 1111 1111 1111")

    greet.send()
    start_worker(broker)
    (run,) = received.wait_for_spans("process mail")
    assert (run.status, run.description, run.events) == ("ERROR", "ValueError", [])
    assert "4111" not in repr(run)


def test_a_skipped_message_has_a_span_that_ends(
    traced: Traced, received: Received, start_worker: StartWorker
) -> None:
    broker = traced()

    @dramatiq.actor(queue_name="mail", max_age=1)
    def greet() -> None:
        raise AssertionError("must not run")

    message = greet.message()
    broker.enqueue(message.copy(message_timestamp=message.message_timestamp - 60_000))
    start_worker(broker)
    (run,) = received.wait_for_spans("process mail")
    assert run.attributes["headrace.outcome"] == "skipped"
    assert run.status == "UNSET"


def test_a_job_that_is_cancelled_while_it_waits_leaves_its_send_alone(
    traced: Traced, received: Received, start_worker: StartWorker
) -> None:
    broker = traced()

    @dramatiq.actor(queue_name="mail")
    def greet() -> None:
        pass

    cancelled, wanted = greet.send(), greet.send()
    assert broker.jobs.cancel(cancelled.message_id)
    start_worker(broker)
    (run,) = received.wait_for_spans("process mail")
    broker.join("mail", interval=10)
    assert run.attributes["messaging.message.id"] == wanted.message_id
    assert [span.name for span in received.spans()].count("process mail") == 1
    sent = {span.attributes["messaging.message.id"] for span in received.spans("send mail")}
    assert sent == {cancelled.message_id, wanted.message_id}


def test_a_job_that_a_limiter_turns_away_is_no_error(
    traced: Traced, received: Received, start_worker: StartWorker
) -> None:
    broker = traced()

    @dramatiq.actor(queue_name="mail")
    def greet() -> None:
        raise RateLimitExceeded("too many")

    greet.send()
    start_worker(broker)
    (run,) = received.wait_for_spans("process mail")
    assert (run.attributes["headrace.outcome"], run.status, run.events) == ("parked", "UNSET", [])


def test_a_job_over_the_limit_of_its_key_is_no_error(
    traced: Traced, received: Received, start_worker: StartWorker
) -> None:
    broker = traced()
    broker.add_middleware(RateLimits())

    @dramatiq.actor(queue_name="mail", rate_key="u1", rate=Rate(1, per_ms=60_000))
    def greet() -> None:
        raise RateLimited(60_000)

    greet.send()
    greet.send()
    start_worker(broker)
    for run in received.wait_for_spans("process mail", count=2):
        assert run.attributes["headrace.outcome"] == "parked"
        assert (run.status, run.events) == ("UNSET", [])


def test_a_send_that_fails_says_why(
    traced: Traced, received: Received, start_worker: StartWorker
) -> None:
    broker = traced()

    @dramatiq.actor(queue_name="mail")
    def greet() -> None:
        pass

    broker.max_message_bytes = 10
    with pytest.raises(ValueError, match="bytes"):
        greet.send()
    (send,) = received.wait_for_spans("send mail")
    assert send.status == "ERROR"
    assert send.attributes["error.type"] == "broker.errors.MessageTooLarge"
    assert [event.name for event in send.events] == ["exception"]
    assert trace.get_current_span() is trace.INVALID_SPAN


@pytest.mark.parametrize("asked", [True, "4111"])
def test_a_send_of_an_encrypted_job_that_fails_says_no_more_than_the_errors_type(
    traced: Traced, received: Received, asked: object
) -> None:
    broker = traced()
    broker.add_middleware(Encryption(KeyRing([Key("k1", bytes(32))], "k1")))

    @dramatiq.actor(queue_name="mail")
    def greet(number: object) -> None:
        pass

    broker.max_message_bytes = 10
    messages = [greet.message(1), greet.message(2).copy(options={"encrypted": asked})]
    with pytest.raises(ValueError):
        broker.enqueue_many(messages)
    (batch,) = received.wait_for_spans("send mail")
    spans = [batch, *received.spans("create mail")]
    assert [span.status for span in spans] == ["ERROR"] * 3
    assert [span.events for span in spans] == [[]] * 3
    assert {span.description for span in spans} == {batch.attributes["error.type"]}


def test_a_batch_is_one_send_with_a_creation_for_each_message(
    traced: Traced, received: Received, start_worker: StartWorker
) -> None:
    broker = traced()

    @dramatiq.actor(queue_name="mail")
    def greet(number: int) -> None:
        pass

    with trace.use_span(_remote(REQUEST)):
        broker.enqueue_many([greet.message(number) for number in range(3)])
    start_worker(broker)
    runs = received.wait_for_spans("process mail", 3)
    (batch,) = received.spans("send mail")
    created = received.spans("create mail")
    assert (batch.kind, batch.attributes["messaging.batch.message_count"]) == ("CLIENT", 3)
    assert (batch.trace_id, batch.parent_id) == (REQUEST_TRACE, REQUEST_SPAN)
    assert {span.kind for span in created} == {"PRODUCER"}
    assert {span.parent_id for span in created} == {batch.span_id}
    assert all("messaging.batch.message_count" not in span.attributes for span in created)
    # A run is no part of the batch's trace: others of it may take days.
    assert {_links(run)["creation"] for run in runs} == {span.span_id for span in created}
    assert {run.parent_id for run in runs} == {""}
    assert REQUEST_TRACE not in {run.trace_id for run in runs}


@pytest.mark.parametrize("delay", [None, 1])
def test_the_last_message_of_a_large_batch_is_one_of_a_batch_as_well(
    traced: Traced, received: Received, start_worker: StartWorker, delay: int | None
) -> None:
    broker = traced()

    @dramatiq.actor(queue_name="mail")
    def greet() -> None:
        pass

    @dramatiq.actor(queue_name="files")
    def convert() -> None:
        pass

    with trace.use_span(_remote(REQUEST)):
        messages = [*(greet.message() for _ in range(201)), convert.message()]
        broker.enqueue_many(messages, delay)
    start_worker(broker)
    runs = [
        *received.wait_for_spans("process mail", 201),
        *received.wait_for_spans("process files"),
    ]
    batches = [*received.spans("send mail"), *received.spans("send files")]
    counts = [batch.attributes["messaging.batch.message_count"] for batch in batches]
    assert ({batch.kind for batch in batches}, counts) == ({"CLIENT"}, [200, 1, 1])
    assert {run.parent_id for run in runs} == {""}
    created = [*received.spans("create mail"), *received.spans("create files")]
    assert {_links(run)["creation"] for run in runs} == {span.span_id for span in created}


def test_a_batch_of_one_is_a_send(
    traced: Traced, received: Received, start_worker: StartWorker
) -> None:
    broker = traced()

    @dramatiq.actor(queue_name="mail")
    def greet() -> None:
        pass

    broker.enqueue_many([greet.message()])
    (send,) = received.wait_for_spans("send mail")
    assert send.kind == "PRODUCER"
    assert "messaging.batch.message_count" not in send.attributes


@pytest.mark.parametrize(
    ("relation", "is_child", "is_linked"),
    [("parent", True, False), ("link", False, True), ("parent_and_link", True, True)],
)
def test_the_relation_of_a_run_to_its_creation_is_a_setting(
    traced: Traced,
    received: Received,
    start_worker: StartWorker,
    relation: str,
    is_child: bool,
    is_linked: bool,
) -> None:
    broker = traced(relation=relation)

    @dramatiq.actor(queue_name="mail")
    def greet() -> None:
        pass

    greet.send()
    start_worker(broker)
    (run,) = received.wait_for_spans("process mail")
    (send,) = received.spans("send mail")
    assert (run.parent_id == send.span_id) is is_child
    assert (run.trace_id == send.trace_id) is is_child
    assert _links(run) == ({"creation": send.span_id} if is_linked else {})


def test_what_is_put_off_for_long_is_linked_only(
    traced: Traced, received: Received, start_worker: StartWorker
) -> None:
    broker = traced(link_after_ms=20)

    @dramatiq.actor(queue_name="mail")
    def greet(when: str) -> None:
        pass

    greet.send_with_options(args=("soon",), delay=1)
    greet.send_with_options(args=("later",), delay=50)
    greet.send_with_options(args=("by the clock",), fire_time=1_767_225_600_000)
    start_worker(broker)
    runs = received.wait_for_spans("process mail", 3)
    sends = {send.span_id: send for send in received.spans("send mail")}
    delays = {
        sends[_links(run)["creation"]].attributes.get("headrace.delay"): bool(run.parent_id)
        for run in runs
    }
    assert delays == {1: True, 50: False, None: False}


def test_a_redriven_message_links_to_its_creation_and_to_an_attempt_before(
    traced: Traced, received: Received, start_worker: StartWorker
) -> None:
    broker = traced(max_retries=1)

    @dramatiq.actor(queue_name="mail")
    def greet() -> None:
        if not CurrentMessage.get_current_message().options.get("redrives"):  # type: ignore[union-attr]
            raise ValueError

    greet.send()
    start_worker(broker)
    eventually(lambda: broker.inspector.queue("mail").dead, lambda dead: dead == 1)
    assert broker.inspector.redrive("mail") == 1
    first, _, third = received.wait_for_spans("process mail", 3)
    (send,) = received.spans("send mail")
    assert first.parent_id == send.span_id
    assert (third.parent_id, third.attributes["headrace.redrives"]) == ("", 1)
    assert _links(third) == {"creation": send.span_id, "previous_attempt": first.span_id}


def test_a_flows_next_step_belongs_to_the_step_before(
    traced: Traced, received: Received, start_worker: StartWorker
) -> None:
    broker = traced()

    @dramatiq.actor(queue_name="one")
    def one() -> int:
        return 1

    @dramatiq.actor(queue_name="two")
    def two(number: int) -> None:
        pass

    dramatiq.pipeline([one.message(), two.message_with_options()]).run()
    start_worker(broker)
    (second,) = received.wait_for_spans("process two")
    (first,) = received.wait_for_spans("process one")
    (handed_on,) = received.wait_for_spans("send two")
    assert handed_on.parent_id == first.span_id
    assert second.parent_id == handed_on.span_id


def test_a_senders_decision_not_to_sample_holds_for_the_run(
    traced: Traced, received: Received, start_worker: StartWorker
) -> None:
    broker = traced()
    flags: list[int] = []

    @dramatiq.actor(queue_name="mail")
    def greet() -> None:
        flags.append(int(trace.get_current_span().get_span_context().trace_flags))

    with trace.use_span(_remote(REQUEST[:-2] + "00")):
        greet.send()
    start_worker(broker, threads=1)
    with trace.use_span(_remote(REQUEST)):
        greet.send()
    (run,) = received.wait_for_spans("process mail")
    assert run.trace_id == REQUEST_TRACE
    assert flags == [0, 1]
    assert len(received.spans("send mail")) == 1


def test_a_sampler_that_says_no_is_obeyed_by_all_who_come_after(
    traced: Traced, received: Received, start_worker: StartWorker
) -> None:
    broker = traced(sampler=ALWAYS_OFF)
    done: list[str] = []

    @dramatiq.actor(queue_name="mail")
    def greet() -> None:
        done.append(CurrentMessage.get_current_message().options["traceparent"])  # type: ignore[union-attr]

    greet.send()
    start_worker(broker)
    eventually(lambda: done, bool)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[02]", done[0])
    assert received.spans() == []


@pytest.mark.parametrize(("sampler", "kept"), [(ParentBased(ALWAYS_ON), False), (ALWAYS_ON, True)])
def test_a_sampler_that_asks_nobody_is_obeyed_too(
    valkey_server: EmbeddedValkey,
    new_broker: NewBroker,
    start_worker: StartWorker,
    sampler: Sampler,
    kept: bool,
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=sampler)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing(tracer_provider=provider)
    broker = new_broker("streams", valkey_server.url, middleware=[tracing, tracing.ending])
    current: list[str] = []

    @dramatiq.actor(queue_name="mail")
    def greet() -> None:
        span = trace.get_current_span().get_span_context()
        current.append(trace.format_trace_id(span.trace_id))

    greet.send()
    exporter.clear()
    message = greet.message()
    untraced = new_broker("streams", valkey_server.url, middleware=[])
    assert isinstance(untraced, StreamsBroker)
    untraced.enqueue(message.copy(options={"traceparent": REQUEST[:-2] + "00"}))
    start_worker(broker, threads=1)
    eventually(lambda: len(current), lambda count: count == 2)
    eventually(lambda: untraced.inspector.size("mail"), lambda left: left == 0)
    runs = {
        trace.format_trace_id(span.context.trace_id)
        for span in exporter.get_finished_spans()
        if span.context is not None
    }
    assert REQUEST_TRACE in current
    assert (REQUEST_TRACE in runs) is kept


def test_baggage_and_trace_state_travel_with_the_job_and_with_what_it_sends(
    traced: Traced, received: Received, start_worker: StartWorker
) -> None:
    broker = traced()
    seen: list[object] = []

    @dramatiq.actor(queue_name="inner")
    def inner() -> None:
        seen.append(baggage.get_baggage("tenant"))

    @dramatiq.actor(queue_name="outer")
    def outer() -> None:
        inner.send()

    span = _remote(REQUEST, trace_state=trace.TraceState([("vendor", "x")]))
    token = active.attach(baggage.set_baggage("tenant", "blue", trace.set_span_in_context(span)))
    try:
        outer.send()
    finally:
        active.detach(token)
    start_worker(broker)
    (run,) = received.wait_for_spans("process inner")
    assert seen == ["blue"]
    assert (run.trace_id, run.trace_state) == (REQUEST_TRACE, "vendor=x")


@pytest.mark.parametrize(
    "broken", [7, None, "", "00-zz-zz-01", "00-zz-zz-00", ["00"], {"a": 1}, "x" * 5_000]
)
def test_a_producers_broken_headers_do_no_harm(
    traced: Traced, received: Received, start_worker: StartWorker, broken: object
) -> None:
    broker = traced()

    @dramatiq.actor(queue_name="mail")
    def greet() -> None:
        pass

    start_worker(broker)
    message = greet.message()
    untraced = StreamsBroker(client=broker.client, namespace=broker.namespace, middleware=[])
    names = ("traceparent", "tracestate", "baggage", "previous_attempt", "retries", "redrives")
    untraced.enqueue(message.copy(options=dict.fromkeys(names, broken)))
    (run,) = received.wait_for_spans("process mail")
    assert (run.parent_id, run.links) == ("", [])
    assert run.attributes["headrace.outcome"] == "completed"


def test_a_message_that_is_sent_again_has_the_context_of_its_last_send(
    traced: Traced, received: Received, start_worker: StartWorker
) -> None:
    broker = traced()

    @dramatiq.actor(queue_name="mail")
    def greet() -> None:
        pass

    message = greet.message()
    message.options["previous_attempt"] = REQUEST
    token = active.attach(baggage.set_baggage("tenant", "blue"))
    try:
        broker.enqueue(message)
    finally:
        active.detach(token)
    broker.enqueue(message)
    assert "baggage" not in message.options
    assert "previous_attempt" not in message.options
    _, second = received.wait_for_spans("send mail", 2)
    assert message.options["traceparent"].split("-")[2] == second.span_id


def test_settlements_have_spans_if_they_are_wanted(
    traced: Traced, received: Received, start_worker: StartWorker
) -> None:
    broker = traced(settle_spans=True)

    @dramatiq.actor(queue_name="mail")
    def greet(fails: bool) -> None:
        if fails:
            raise ValueError

    greet.send(True)
    greet.send(False)
    start_worker(broker, threads=1)
    (nack,) = received.wait_for_spans("nack mail")
    (ack,) = received.wait_for_spans("ack mail")
    for span in (ack, nack):
        assert (span.kind, span.parent_id) == ("CLIENT", "")
        assert span.attributes["messaging.operation.type"] == "settle"
        assert span.attributes["messaging.batch.message_count"] == 1


def test_a_broker_without_a_provider_sends_what_it_always_sent(
    valkey_server: EmbeddedValkey, new_broker: NewBroker
) -> None:
    tracing = Tracing()
    new_broker("streams", valkey_server.url, middleware=[tracing, tracing.ending])

    @dramatiq.actor(queue_name="mail")
    def greet() -> None:
        pass

    assert greet.send().options == {}


def _remote(header: str, trace_state: trace.TraceState | None = None) -> trace.Span:
    _, trace_id, span_id, flags = header.split("-")
    return trace.NonRecordingSpan(
        trace.SpanContext(
            int(trace_id, 16),
            int(span_id, 16),
            is_remote=True,
            trace_flags=trace.TraceFlags(int(flags, 16)),
            trace_state=trace_state,
        )
    )


def _links(run: Span) -> dict[str, str]:
    return {link.attributes["headrace.link"]: link.span_id for link in run.links}
