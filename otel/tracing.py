"""Spans of runs and settlements, beside those of sends: ``docs/telemetry.md`` has the table."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextvars import Token
from typing import Any

from dramatiq import Broker, MessageProxy
from dramatiq.middleware import Middleware
from opentelemetry import context as active
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import Span, SpanKind, TracerProvider

from broker import StreamsBroker
from broker.delivery import Delivery
from broker.keys import GROUP
from broker.outcome import Bury, Settled
from broker.settlement import Settlement
from otel import names
from otel.ending import Ending
from otel.lazy import Lazy
from otel.propagation import (
    Relation,
    carries_context,
    extract,
    extract_unsampled,
    links,
    parent,
    remember_attempt,
)
from otel.sends import SendSpans, common, conversation
from otel.server import Attributes
from otel.wait import waited_s


class _Thread(threading.local):
    """What a thread has begun and not ended yet."""

    #: Of the current job; None as well if nothing of it is kept.
    span: Span | None = None
    #: What was current before the job.
    token: Token[Context] | None = None


class Tracing(SendSpans):
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
        super().__init__(
            link_after_ms=link_after_ms,
            exception_texts=exception_texts,
            tracer_provider=tracer_provider,
        )
        self._relation: Relation = relation
        self._thread = _Thread()
        self._obeys: bool | None = None
        self.ending = RunEnding(self, self._thread)
        self._settle_spans = settle_spans

    # -- Runs -------------------------------------------------------------------------

    def before_process_message(
        self,
        broker: StreamsBroker,  # type: ignore[override]  # it is made for no other
        message: MessageProxy,
    ) -> None:
        """Begin a run: from here on its span is the current one."""
        thread = self._thread
        if thread.token is not None:
            self._let_go()
        options = message.options
        relation = self._relation
        if names.LINK_ONLY in options or names.REDRIVES_OPTION in options:
            relation = "link"
        # What the SDK would do, at a fifth of the price: this is most jobs.
        is_dropped = relation != "link" and self._obeys_senders()
        unsampled = extract_unsampled(options) if is_dropped else None
        if unsampled is not None:
            thread.token = active.attach(unsampled)
        elif self._traces():
            self._begin_run(broker, message, relation)
        elif carries_context(options):
            thread.token = active.attach(parent(extract(options), relation))

    def _obeys_senders(self) -> bool:
        """Whether nothing is kept that a sender did not keep, whatever it is."""
        if self._obeys is not None:
            return self._obeys
        if not self._traces():
            return True  # nothing is kept, until there is an SDK
        self._obeys = _obeys(self._provider or trace.get_tracer_provider())
        return self._obeys

    def _begin_run(self, broker: StreamsBroker, message: MessageProxy, relation: Relation) -> None:
        context = extract(message.options)
        inside = parent(context, relation)
        sender = trace.get_current_span(inside).get_span_context()
        if sender.is_valid and not sender.trace_flags.sampled and self._obeys_senders():
            self._thread.token = active.attach(inside)
            return
        span = self._tracer.start_span(
            f"process {message.queue_name}",
            context=inside,
            kind=SpanKind.CONSUMER,
            links=links(context, message.options, relation),
            attributes=Lazy(lambda: _run_attributes(broker, message)),
        )
        self._thread.span = span if span.is_recording() else None
        self._thread.token = active.attach(trace.set_span_in_context(span, inside))

    def end_run(
        self,
        message: MessageProxy,
        ending: Ending,
        exception: BaseException | None = None,
    ) -> None:
        """End the span of the thread's run; it stays current for the other middleware."""
        span, self._thread.span = self._thread.span, None
        if span is None or not span.is_recording():
            return
        span.set_attribute(names.OUTCOME, ending.value)
        if exception is not None:
            # The next attempt links to this one.
            remember_attempt(message.options, span.get_span_context())
            if ending is Ending.FAILED:
                # What an encrypted job's error says may quote what the job was given.
                texts = not message.options.get(names.ENCRYPTED_OPTION)
                self.record(span, exception, texts=texts)
        span.end()

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
        thread = self._thread
        token, thread.token = thread.token, None
        if token is None:
            return
        span, thread.span = thread.span, None
        if span is not None and span.is_recording():  # the end of the list was never reached
            span.end()
        active.detach(token)

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
                    **common(broker, queue),
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

    def __init__(self, tracing: Tracing, thread: _Thread) -> None:
        self._tracing = tracing
        self._thread = thread

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """The job has succeeded or failed."""
        if self._thread.span is not None:
            self._tracing.end_run(message, Ending.of(message, exception), exception)

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        """The job was not run."""
        if self._thread.span is not None:
            self._tracing.end_run(message, Ending.of_skipped(message))


def _obeys(provider: TracerProvider) -> bool:
    sampler = getattr(provider, "sampler", None)
    # A ParentBased asks another sampler about each kind of parent, and says which.
    return sampler is ALWAYS_OFF or (
        isinstance(sampler, ParentBased)
        and "remoteParentNotSampled:AlwaysOffSampler" in sampler.get_description()  # type: ignore[no-untyped-call]
    )


def _run_attributes(broker: StreamsBroker, message: MessageProxy) -> Attributes:
    wrapped = message.message if isinstance(message, Delivery) else message
    options = wrapped.options
    retries = options.get("retries", 0)
    attributes: Attributes = {
        **common(broker, wrapped.queue_name),
        names.OPERATION_NAME: "process",
        names.OPERATION_TYPE: "process",
        names.MESSAGE_ID: wrapped.message_id,
        names.ACTOR: wrapped.actor_name,
        names.ATTEMPT: retries + 1 if isinstance(retries, int) else 1,
        names.CONSUMER_GROUP: GROUP,
        **conversation(options),
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
