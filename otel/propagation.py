"""Trace context in a message's options, and how a run relates to where its message was made.

The options carry what the process's propagator writes, by default the W3C headers
``traceparent``, ``tracestate`` and ``baggage``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, TextMapPropagator
from opentelemetry.trace import Link, SpanContext
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from otel import names

#: What the span of a run has of the span that made its message.
Relation: TypeAlias = Literal["link", "parent", "parent_and_link"]

_NOTHING: Final = Context()
_W3C: Final = TraceContextTextMapPropagator()
_DEFAULT_FIELDS: Final = frozenset({*_W3C.fields, names.BAGGAGE})
#: The flags that a sender writes: sampled is the first bit, random the second.
_NOT_SAMPLED: Final = frozenset({"-00", "-02"})
_CREATION: Final = {names.LINK: "creation"}
_PREVIOUS: Final = {names.LINK: "previous_attempt"}


class _Options(Getter[Mapping[str, Any]]):
    """Reads headers from options, in which any producer may have left anything."""

    def get(self, carrier: Mapping[str, Any], key: str) -> list[str] | None:
        value = carrier.get(key)
        return [value] if isinstance(value, str) else None

    def keys(self, carrier: Mapping[str, Any]) -> list[str]:
        return list(carrier)


_OPTIONS: Final = _Options()


def carries_context(options: Mapping[str, Any]) -> bool:
    """Whether a sender has left anything of a trace in a message's options."""
    if not options:
        return False
    return "traceparent" in options or any(name in options for name in _headers())


def forget(options: MutableMapping[str, Any]) -> None:
    """Take out what an earlier send has left: the message may be sent more than once."""
    if options:
        for name in (*_headers(), names.PREVIOUS_ATTEMPT, names.LINK_ONLY):
            options.pop(name, None)


def inject(options: MutableMapping[str, Any], context: Context) -> None:
    """Make the context that of the message."""
    propagate.inject(options, context)


def extract(options: Mapping[str, Any]) -> Context:
    """The context that a message carries; an empty one for none, or for one that is broken."""
    propagator = propagate.get_global_textmap()
    if names.BAGGAGE not in options and _fields_of(propagator) == _DEFAULT_FIELDS:
        return _W3C.extract(options, _NOTHING, _OPTIONS)  # half of what the default one costs
    return propagator.extract(options, _NOTHING, _OPTIONS)


def is_unsampled(options: Mapping[str, Any]) -> bool:
    """Whether the sender has decided that nothing of this trace is kept.

    Says False where it can't be said at a glance.
    """
    header = options.get("traceparent")
    return isinstance(header, str) and header[:3] == "00-" and header[-3:] in _NOT_SAMPLED


def remember_attempt(options: MutableMapping[str, Any], span: SpanContext) -> None:
    """Note the run in its message, for the attempt after it."""
    if span.is_valid:
        header: dict[str, str] = {}
        context = trace.set_span_in_context(trace.NonRecordingSpan(span), _NOTHING)
        _W3C.inject(header, context)
        options[names.PREVIOUS_ATTEMPT] = header["traceparent"]


def links(context: Context, options: Mapping[str, Any], relation: Relation) -> list[Link]:
    """The links of a run: to its message's creation, and to the attempt before it."""
    creation = trace.get_current_span(context).get_span_context()
    previous = _previous_attempt(options)
    found = []
    # A retry has both, whatever the relation: its creation is where all attempts meet.
    if creation.is_valid and (relation != "parent" or previous is not None):
        found.append(Link(creation, _CREATION))
    if previous is not None:
        found.append(Link(previous, _PREVIOUS))
    return found


def parent(context: Context, relation: Relation) -> Context:
    """The context that the run starts in; baggage stays when the parent goes."""
    if relation == "link":
        return trace.set_span_in_context(trace.INVALID_SPAN, context)
    return context


def _headers() -> Collection[str]:
    return _fields_of(propagate.get_global_textmap())


@lru_cache(maxsize=4)
def _fields_of(propagator: TextMapPropagator) -> frozenset[str]:
    return frozenset(propagator.fields)


def _previous_attempt(options: Mapping[str, Any]) -> SpanContext | None:
    header = options.get(names.PREVIOUS_ATTEMPT)
    if not isinstance(header, str):
        return None
    context = _W3C.extract({"traceparent": header}, _NOTHING)
    span = trace.get_current_span(context).get_span_context()
    return span if span.is_valid else None
