"""Spans of sends: one for a message, one and its creations for a batch."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dramatiq import Message
from dramatiq.middleware import Middleware
from opentelemetry import context as active
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider

from broker import StreamsBroker, evidence, flow_step
from broker.errors import HeadraceError
from broker.producer import Batch
from otel import names
from otel.ending import error_type, type_name
from otel.propagation import forget, inject
from otel.server import Attributes, server_attributes

#: The largest flow that is one trace; the runs of a larger one are linked, as those of a batch.
MOST_OF_A_FLOW: Final = 100


class _Thread(threading.local):
    """What a thread has begun and not ended yet."""

    send: list[Span] | None = None


class SendSpans(Middleware):
    """Makes the spans of sends, and writes their contexts into the messages.

    Args:
      link_after_ms: a message put off for longer is linked only.
      exception_texts: whether errors are recorded with text and traceback, or by type alone.
    """

    def __init__(
        self,
        *,
        link_after_ms: int = 60_000,
        exception_texts: bool = True,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        self._link_after_ms = link_after_ms
        self._exception_texts = exception_texts
        self._provider = tracer_provider
        self._tracer: Tracer = trace.get_tracer(
            names.SCOPE, tracer_provider=tracer_provider, schema_url=names.SCHEMA_URL
        )
        self._sending = _Thread()

    def before_send(
        self, broker: StreamsBroker, messages: Sequence[Message[Any]], delay: int | None
    ) -> None:
        """Begin a send, and write its context into the messages."""
        if not active.get_current() and not self._traces():
            for message in messages:
                forget(message.options)
            return
        if len(messages) == 1 and not isinstance(messages, Batch):
            link_only = self._links_only(messages[0], delay)
            spans = [self._create(broker, messages[0], "send", delay, None, link_only=link_only)]
        else:
            batch = self._begin_batch(broker, messages)
            within = trace.set_span_in_context(batch)
            link_only = not _is_small_flow(messages)
            spans = [batch]
            spans += [
                self._create(broker, each, "create", delay, within, link_only=link_only)
                for each in messages
            ]
        self._sending.send = spans

    def _begin_batch(self, broker: StreamsBroker, messages: Sequence[Message[Any]]) -> Span:
        queues = {message.queue_name for message in messages}
        one = queues.pop() if len(queues) == 1 else None  # a flow's steps may have many
        attributes = {
            **common(broker, one),
            names.OPERATION_NAME: "send",
            names.OPERATION_TYPE: "send",
            names.BATCH_COUNT: len(messages),
        }
        name = "send" if one is None else f"send {one}"
        return self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)

    def _create(
        self,
        broker: StreamsBroker,
        message: Message[Any],
        operation: str,
        delay: int | None,
        within: Context | None,
        *,
        link_only: bool,
    ) -> Span:
        attributes = {
            **common(broker, message.queue_name),
            names.OPERATION_NAME: operation,
            names.OPERATION_TYPE: operation,
            names.MESSAGE_ID: message.message_id,
            names.ACTOR: message.actor_name,
            **conversation(message.options),
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
        if link_only:
            options[names.LINK_ONLY] = True
        return span

    def _links_only(self, message: Message[Any], delay: int | None) -> bool:
        """Whether the run must not be the creation's child: a trace would never end."""
        return (delay or 0) > self._link_after_ms or names.CRON_OPTION in message.options

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
        spans, self._sending.send = self._sending.send, None
        if spans is None:
            return
        for span, message in zip(spans[-len(messages) :], sent or (), strict=False):
            # A deduplicated message is known by the id of the one that was there before.
            span.set_attribute(names.MESSAGE_ID, message.message_id)
        texts = exception is None or not _any_sealed(broker, messages)
        for span in reversed(spans):
            if exception is not None:
                self.record(span, exception, texts=texts)
            span.end()

    def _traces(self) -> bool:
        """Whether there is anybody who would keep a span."""
        provider = self._provider or trace.get_tracer_provider()
        return not isinstance(provider, trace.ProxyTracerProvider)

    def record(self, span: Span, exception: BaseException, *, texts: bool = True) -> None:
        """Set the span's status and error, with the exception as its event if texts may show."""
        if not span.is_recording():
            return
        kind = error_type(exception)
        span.set_attribute(names.ERROR_TYPE, kind)
        if self._exception_texts and texts:
            # As the SDK's record_exception, but of any exception: a text that can't be had or
            # encoded would take the span, or all that are exported with it; a long one is held
            # as often as spans wait.
            text = evidence.text(exception)
            noted = {
                names.EXCEPTION_TYPE: type_name(exception),
                names.EXCEPTION_MESSAGE: text.partition(": ")[2],
                names.EXCEPTION_STACKTRACE: evidence.traceback_of(exception),
            }
            span.add_event("exception", noted)
            span.set_status(Status(StatusCode.ERROR, text))
        else:
            span.set_status(Status(StatusCode.ERROR, kind))


def common(broker: StreamsBroker, queue: str | None) -> Attributes:
    """What every span has; the queue, if there is one."""
    attributes: Attributes = {names.SYSTEM: names.REDIS, **server_attributes(broker)}
    if queue is not None:
        attributes[names.DESTINATION] = queue
    return attributes


def conversation(options: Mapping[str, Any]) -> Attributes:
    """The correlation id of a message, if it has one."""
    id = options.get(names.CORRELATION_OPTION)
    return {names.CONVERSATION_ID: id} if isinstance(id, str) else {}


def _any_sealed(broker: StreamsBroker, messages: Sequence[Message[Any]]) -> bool:
    """Whether what a send's error says may quote what an encrypted job was given."""
    try:
        return any(map(broker.codec.seals, messages))
    except HeadraceError:  # it says what no message can be asked
        return True


def _is_small_flow(messages: Sequence[Message[Any]]) -> bool:
    return len(messages) <= MOST_OF_A_FLOW and all(
        flow_step.OPTION in message.options for message in messages
    )
