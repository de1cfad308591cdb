"""Trace context in a message's options, and how a run relates to where its message was made.

The options carry what the process's propagator writes, by default the W3C headers
``traceparent``, ``tracestate`` and ``baggage``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, MutableMapping
from functools import cached_property, lru_cache
from typing import Any, Final, Literal, TypeAlias

from opentelemetry import context as active
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, TextMapPropagator
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from otel import names

#: What the span of a run has of the span that made its message.
Relation: TypeAlias = Literal["link", "parent", "parent_and_link"]

_NOTHING: Final = Context()
_W3C: Final = TraceContextTextMapPropagator()
_DEFAULT_FIELDS: Final = frozenset({*_W3C.fields, names.BAGGAGE})
#: A header as nearly all senders write it; ids of zeros alone are none.
_PLAIN: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
#: The flags of a trace that nothing is kept of: sampled is the first bit, random the second.
_NOT_SAMPLED: Final = frozenset({"00", "02"})
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


class Unsampled(NonRecordingSpan):
    """A sender's span of which nothing is kept; its header is read when somebody asks for it.

    Most jobs belong to one, and neither send anything nor log in a way that asks.
    """

    def __init__(self, header: str) -> None:
        self._header = header

    @cached_property
    def _context(self) -> SpanContext:  # type: ignore[override]  # what the base class returns
        return _read(self._header)


class UnsampledContext(Context):
    """The context of one."""


#: Where a context has its span.
(_SPAN_KEY,) = trace.set_span_in_context(trace.INVALID_SPAN, _NOTHING)


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
    header = _plain(options)
    if header is not None:  # a third of what reading it with all its possibilities costs
        return trace.set_span_in_context(NonRecordingSpan(_read(header)), _NOTHING)
    return propagate.get_global_textmap().extract(options, _NOTHING, _OPTIONS)


def extract_unsampled(options: Mapping[str, Any]) -> Context | None:
    """As :func:`extract` if the sender has decided that nothing of this trace is kept.

    None otherwise, and where that can't be said at a glance.
    """
    header = _plain(options)
    if header is None or header[-2:] not in _NOT_SAMPLED:
        return None
    return UnsampledContext({_SPAN_KEY: Unsampled(header)})


def sampled(context: Context | None = None) -> SpanContext | None:
    """The current span, or that of the context, if its trace is kept."""
    if context is None:
        context = active.get_current()
    if type(context) is UnsampledContext:
        return None
    found = trace.get_current_span(context).get_span_context()
    return found if found.trace_flags & 1 else None


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


def _plain(options: Mapping[str, Any]) -> str | None:
    """The header of options that carry nothing else, if it is all that has to be read."""
    header = options.get("traceparent")
    if (
        isinstance(header, str)
        and "tracestate" not in options
        and names.BAGGAGE not in options
        and _PLAIN.fullmatch(header) is not None
        and _is_default(propagate.get_global_textmap())
    ):
        return header
    return None


def _read(header: str) -> SpanContext:
    flags = TraceFlags(int(header[53:], 16))
    return SpanContext(int(header[3:35], 16), int(header[36:52], 16), True, flags)


def _headers() -> Collection[str]:
    return _fields_of(propagate.get_global_textmap())


@lru_cache(maxsize=4)
def _is_default(propagator: TextMapPropagator) -> bool:
    return _fields_of(propagator) == _DEFAULT_FIELDS


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
