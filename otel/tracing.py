"""Spans of sends and runs; ``docs/telemetry.md`` has the table of what is emitted."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextvars import Token
from functools import lru_cache
from typing import Any

from dramatiq import Broker, Message, MessageProxy
from dramatiq.middleware import Middleware
from opentelemetry import context as active
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider

from broker import StreamsBroker
from broker.commands import Settlement
from broker.delivery import Delivery
from broker.keys import GROUP
from broker.outcome import Bury, Settled
from otel import names
from otel.ending import Ending, error_type
from otel.lazy import Lazy
from otel.propagation import (
    Relation,
    carries_context,
    extract,
    forget,
    inject,
    is_unsampled,
    links,
    parent,
    remember_attempt,
)
from otel.server import Attributes, server_attributes
from otel.wait import waited_s


class _Run:
    """The span of a thread's current job, and what was current before it."""

    __slots__ = ("span", "token")

    def __init__(self, span: Span, token: Token[Context]) -> None:
        self.span = span
        self.token = token


class _Thread(threading.local):
    """What a thread has begun and not ended yet."""

    run: _Run | None = None
    send: list[Span] | None = None


class Tracing(Middleware):
    """Makes the spans. Its place is at the top of the list, that of :attr:`ending` at the end.

    So a run's span is current for every other middleware, before the job and after it, and
    what they enqueue (the next step of a flow, a callback) belongs to it; and it has ended
    before ``Retries`` decides what becomes of a failure.

    Args:
      relation: what a run has of its message's creation, see :data:`otel.propagation.Relation`.
      link_after_ms: a message put off for longer is linked only.
      settle_spans: whether each group commit has a span, too.
      exception_texts: whether errors are recorded with text and traceback, or by type alone.
    """

    def __init__(
        self,
        *,
        relation: Relation = "parent_and_link",
        link_after_ms: int = 60_000,
        settle_spans: bool = False,
        exception_texts: bool = True,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        self._relation: Relation = relation
        self._link_after_ms = link_after_ms
        self._exception_texts = exception_texts
        self._tracer: Tracer = trace.get_tracer(
            names.SCOPE, tracer_provider=tracer_provider, schema_url=names.SCHEMA_URL
        )
        self._provider = tracer_provider
        self._thread = _Thread()
        self.ending = RunEnding(self)
        self._settle_spans = settle_spans

    # -- Sends ------------------------------------------------------------------------

    def before_send(
        self, broker: StreamsBroker, messages: Sequence[Message[Any]], delay: int | None
    ) -> None:
        """Begin a send, and write its context into the messages."""
        if not active.get_current() and not self._traces():
            for message in messages:
                forget(message.options)
            return
        common = _common(broker, messages[0].queue_name)
        if len(messages) == 1:
            spans = [self._create(broker, messages[0], "send", common, delay, None)]
        else:
            batch = self._begin_batch(len(messages), messages[0].queue_name, common)
            within = trace.set_span_in_context(batch)
            spans = [batch]
            spans += [self._create(broker, m, "create", common, delay, within) for m in messages]
        self._thread.send = spans

    def _begin_batch(self, count: int, queue: str, common: Attributes) -> Span:
        attributes = {
            **common,
            names.OPERATION_NAME: "send",
            names.OPERATION_TYPE: "send",
            names.BATCH_COUNT: count,
        }
        return self._tracer.start_span(f"send {queue}", kind=SpanKind.CLIENT, attributes=attributes)

    def _create(
        self,
        broker: StreamsBroker,
        message: Message[Any],
        operation: str,
        common: Attributes,
        delay: int | None,
        within: Context | None,
    ) -> Span:
        attributes = {
            **common,
            names.OPERATION_NAME: operation,
            names.OPERATION_TYPE: operation,
            names.MESSAGE_ID: message.message_id,
            names.ACTOR: message.actor_name,
            **_conversation(message),
        }
        if delay:
            attributes[names.DELAY] = delay
        span = self._tracer.start_span(
            f"{operation} {message.queue_name}",
            context=within,
            kind=SpanKind.PRODUCER,
            attributes=attributes,
        )
        options = message.options
        forget(options)
        inject(options, trace.set_span_in_context(span))
        if self._links_only(message, operation, delay):
            options[names.LINK_ONLY] = True
        return span

    def _links_only(self, message: Message[Any], operation: str, delay: int | None) -> bool:
        """Whether the run must not be the creation's child: a trace would never end."""
        return (
            operation == "create"
            or (delay is not None and delay > self._link_after_ms)
            or names.CRON_OPTION in message.options
        )

    def after_send(
        self,
        broker: StreamsBroker,
        messages: Sequence[Message[Any]],
        delay: int | None,
        *,
        sent: Sequence[Message[Any]] | None = None,
        exception: BaseException | None = None,
    ) -> None:
        """End what :meth:`before_send` began."""
        spans, self._thread.send = self._thread.send, None
        if spans is None:
            return
        for span, message in zip(spans[-len(messages) :], sent or (), strict=False):
            # A deduplicated message is known by the id of the one that was there before.
            span.set_attribute(names.MESSAGE_ID, message.message_id)
        for span in reversed(spans):
            if exception is not None:
                self.record(span, exception)
            span.end()

    # -- Runs -------------------------------------------------------------------------

    def before_process_message(
        self,
        broker: StreamsBroker,  # type: ignore[override]  # it is made for no other
        message: MessageProxy,
    ) -> None:
        """Begin a run: from here on its span is the current one."""
        if self._thread.run is not None:
            self._let_go()
        wrapped = message.message if isinstance(message, Delivery) else message
        options = wrapped.options
        if not carries_context(options) and not self._traces():
            return
        relation: Relation = self._relation
        if names.LINK_ONLY in options or names.REDRIVES_OPTION in options:
            relation = "link"
        context = extract(options)
        inside = parent(context, relation)
        span = trace.get_current_span(inside)
        if is_unsampled(options) and span.get_span_context().is_valid and self._obeys_senders():
            # What the SDK would do, at a third of the price: this is most jobs.
            self._thread.run = _Run(span, active.attach(inside))
            return
        span = self._tracer.start_span(
            f"process {wrapped.queue_name}",
            context=inside,
            kind=SpanKind.CONSUMER,
            links=links(context, options, relation),
            attributes=Lazy(lambda: _run_attributes(broker, message)),
        )
        token = active.attach(trace.set_span_in_context(span, inside))
        self._thread.run = _Run(span, token)

    def _obeys_senders(self) -> bool:
        """Whether the sampler keeps nothing that a sender did not keep, whatever it is."""
        provider = self._provider or trace.get_tracer_provider()
        return _obeys(getattr(provider, "sampler", None))

    def _traces(self) -> bool:
        """Whether there is anybody who would keep a span."""
        provider = self._provider or trace.get_tracer_provider()
        return not isinstance(provider, trace.ProxyTracerProvider)

    def end_run(
        self,
        message: MessageProxy,
        ending: Ending,
        exception: BaseException | None = None,
    ) -> None:
        """End the span of the thread's run; it stays current for the other middleware."""
        run = self._thread.run
        if run is None or not run.span.is_recording():
            return
        run.span.set_attribute(names.OUTCOME, ending.value)
        if exception is not None:
            # The next attempt links to this one.
            remember_attempt(message.options, run.span.get_span_context())
            if ending is Ending.FAILED:
                # What an encrypted job's error says may quote what the job was given.
                texts = not message.options.get(names.ENCRYPTED_OPTION)
                self.record(run.span, exception, texts=texts)
        run.span.end()

    def record(self, span: Span, exception: BaseException, *, texts: bool = True) -> None:
        """Set the span's status and error, with the exception as its event if texts may show."""
        if not span.is_recording():
            return
        kind = error_type(exception)
        span.set_attribute(names.ERROR_TYPE, kind)
        if self._exception_texts and texts:
            span.record_exception(exception)
            span.set_status(Status(StatusCode.ERROR, f"{type(exception).__name__}: {exception}"))
        else:
            span.set_status(Status(StatusCode.ERROR, kind))

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """Everybody has seen the end of the run: it is current no more."""
        self._let_go()

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        """As :meth:`after_process_message`."""
        self._let_go()

    def _let_go(self) -> None:
        run, self._thread.run = self._thread.run, None
        if run is not None:
            if run.span.is_recording():  # the end of the list was never reached
                run.span.end()
            active.detach(run.token)

    # -- Settlements ------------------------------------------------------------------

    def after_settle(
        self,
        broker: StreamsBroker,
        queue: str,
        settlements: Sequence[Settlement],
        replies: Sequence[Settled],
        seconds: float,
    ) -> None:
        """Make the spans of a group commit, if they are wanted."""
        if not self._settle_spans:
            return
        buried = sum(isinstance(each.outcome, Bury) for each in settlements)
        end = time.time_ns()
        for operation, count in (("ack", len(settlements) - buried), ("nack", buried)):
            if count:
                attributes = {
                    **_common(broker, queue),
                    names.OPERATION_NAME: operation,
                    names.OPERATION_TYPE: "settle",
                    names.CONSUMER_GROUP: GROUP,
                    names.CLIENT_ID: broker.consumer_name,
                    names.BATCH_COUNT: count,
                }
                self._tracer.start_span(
                    f"{operation} {queue}",
                    context=Context(),
                    kind=SpanKind.CLIENT,
                    attributes=attributes,
                    start_time=end - int(seconds * 1e9),
                ).end(end)


class RunEnding(Middleware):
    """The other end of :class:`Tracing`: last in the list, so that its ``after_`` comes first."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """The job has succeeded or failed."""
        self._tracing.end_run(message, Ending.of(exception), exception)

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        """The job was not run."""
        self._tracing.end_run(message, Ending.of_skipped(message))


@lru_cache(maxsize=8)
def _obeys(sampler: Sampler | None) -> bool:
    # A ParentBased asks another sampler about each kind of parent, and says which.
    return (
        isinstance(sampler, ParentBased)
        and "remoteParentNotSampled:AlwaysOffSampler" in sampler.get_description()  # type: ignore[no-untyped-call]
    )


def _common(broker: StreamsBroker, queue: str) -> Attributes:
    return {
        names.SYSTEM: names.REDIS,
        names.DESTINATION: queue,
        **server_attributes(broker),
    }


def _conversation(message: Message[Any] | MessageProxy) -> Attributes:
    id = message.options.get(names.CORRELATION_OPTION)
    return {names.CONVERSATION_ID: id} if isinstance(id, str) else {}


def _run_attributes(broker: StreamsBroker, message: MessageProxy) -> Attributes:
    wrapped = message.message if isinstance(message, Delivery) else message
    options = wrapped.options
    retries = options.get("retries", 0)
    attributes: Attributes = {
        **_common(broker, wrapped.queue_name),
        names.OPERATION_NAME: "process",
        names.OPERATION_TYPE: "process",
        names.MESSAGE_ID: wrapped.message_id,
        names.ACTOR: wrapped.actor_name,
        names.ATTEMPT: retries + 1 if isinstance(retries, int) else 1,
        names.CONSUMER_GROUP: GROUP,
        **_conversation(wrapped),
    }
    if isinstance(message, Delivery):
        attributes |= {
            names.CLIENT_ID: broker.consumer_name,
            names.DELIVERY: message.lease.count,
            names.LEVEL: message.lease.level,
            names.WAIT_TIME: waited_s(message),
        }
    redrives = options.get(names.REDRIVES_OPTION)
    if isinstance(redrives, int):
        attributes[names.REDRIVES] = redrives
    return attributes
