"""Spans of runs and settlements, beside those of sends: ``docs/telemetry.md`` has the table."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextvars import Token
from functools import lru_cache
from typing import Any

from dramatiq import Broker, MessageProxy
from dramatiq.middleware import Middleware
from opentelemetry import context as active
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler
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
    is_unsampled,
    links,
    parent,
    remember_attempt,
)
from otel.sends import SendSpans, common, conversation
from otel.server import Attributes
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
        self.ending = RunEnding(self)
        self._settle_spans = settle_spans

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
        if self._keeps_nothing(options, span):
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

    def _keeps_nothing(self, options: Mapping[str, Any], sender: Span) -> bool:
        """Whether a span would be thrown away: there is no SDK, or the sender has decided so."""
        if not sender.get_span_context().is_valid:
            return False
        provider = self._provider or trace.get_tracer_provider()
        if isinstance(provider, trace.ProxyTracerProvider):
            return True
        return is_unsampled(options) and _obeys(getattr(provider, "sampler", None))

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
        self._tracing.end_run(message, Ending.of(message, exception), exception)

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
