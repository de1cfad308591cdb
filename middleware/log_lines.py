"""A log record as a line: the spec's LogFormat as JSON, or something for people to read."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import structlog
from dramatiq import Message, get_broker
from dramatiq.broker import MessageProxy
from opentelemetry import trace

from middleware.correlation import current_correlation_id
from middleware.queue_errors import is_queue_error, queue_of
from middleware.redaction import NO_JOB, Redaction, running

#: A record's attributes (``extra=``) that may get into a line's ``data``; all others stay out.
FIELDS: Final = (
    *("queueName", "jobId", "duration", "error"),
    *("actor", "attempt", "delay", "reason", "count"),
)
#: What a line is that was written as a text, by a library or by a job.
TEXT: Final = "log"

_MOST_CHARACTERS = 2_000
_LEVELS = ((logging.ERROR, "error"), (logging.WARNING, "warn"), (logging.INFO, "info"))

#: As OpenTelemetry's propagator writes it into a message, and maybe somebody else.
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")

_encode = msgspec.json.Encoder().encode


class JsonLines(logging.Formatter):
    """Every record as one line of JSON: ``timestamp correlationId level event data``.

    Never fails, and never shows a job's arguments: not in a text, nor in a traceback.
    """

    def __init__(self) -> None:
        super().__init__()
        #: In place of a chain's id, for lines that belong to none.
        self._process = f"{socket.gethostname()}:{os.getpid()}"

    def format(self, record: logging.LogRecord) -> str:
        try:
            return _json(self._line(record))
        except Exception as failure:  # a line that can't be made must not take others along
            return _json(
                {
                    "timestamp": _timestamp(record.created),
                    "correlationId": self._process,
                    "level": "error",
                    "event": TEXT,
                    "data": {"error": type(failure).__name__, "logger": record.name},
                }
            )

    def _line(self, record: logging.LogRecord) -> dict[str, Any]:
        known = record.__dict__
        line: dict[str, Any] = {
            "timestamp": _timestamp(record.created),
            "correlationId": known.get("correlationId")
            or current_correlation_id()
            or self._process,
            "level": _level(record.levelno),
        }
        if "event" in known:
            line["event"] = known["event"]
            line["data"] = _own(record)
        else:
            line["event"], line["data"] = _foreign(record)
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            line["trace_id"] = format(span.trace_id, "032x")
            line["span_id"] = format(span.span_id, "016x")
        else:
            line |= _sender(known.get("traceparent"))
        return line


class ConsoleLines(JsonLines):
    """The same, for people: a time, a level, the event or the text, and what is known of it."""

    def __init__(self, *, colors: bool) -> None:
        super().__init__()
        self._renderer = structlog.dev.ConsoleRenderer(
            colors=colors, pad_event_to=0, sort_keys=False
        )

    def format(self, record: logging.LogRecord) -> str:
        line = self._line(record)
        data = dict(line.pop("data"))
        event = data.pop("message", line.pop("event"))
        error = data.pop("error", None)
        shown: dict[str, Any] = {
            "timestamp": line.pop("timestamp")[11:-1],
            "level": {"warn": "warning"}.get(line["level"], line["level"]),
            "event": _printable(str(event)),
            **{name: _printable(str(value)) for name, value in data.items()},
            "correlationId": line["correlationId"],
        }
        if error is not None:
            shown["exception" if "\n" in error else "error"] = _printable(error)
        return str(self._renderer(None, record.levelname.lower(), shown))


def _own(record: logging.LogRecord) -> dict[str, Any]:
    """The data of a record that names its event."""
    known = record.__dict__
    data: dict[str, Any] = {name: _bounded(known[name]) for name in FIELDS if name in known}
    redaction = running.get() or NO_JOB
    if record.exc_info and record.exc_info[1] is not None:
        data["error"] = redaction.traceback(record.exc_info[1])
    elif "error" in data:
        data["error"] = redaction.text(str(data["error"]))
    return data


def _foreign(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    """The event and data of a record that was written as a text."""
    job = running.get() or _job_in(record.args)
    redaction = NO_JOB if job is None else job
    text = redaction.text(_text(record, redaction))
    error = record.exc_info[1] if record.exc_info else None
    # Without an error it is what the broker left of a traceback.
    traceback = record.exc_text if error is None else redaction.traceback(error)
    known = record.__dict__
    data: dict[str, Any] = {}
    if "jobId" in known:
        data["jobId"] = _bounded(known["jobId"])
    if job is not None:
        data = {"queueName": job.message.queue_name, "jobId": _bounded(job.message.message_id)}
    if (queue := queue_of(record)) is not None:
        data["queueName"] = queue
    if is_queue_error(record):
        data["error"] = text if traceback is None else f"{text}\n{traceback}"
        return "queue_error", data
    data |= {"message": text, "logger": record.name}
    if traceback is not None:
        data["error"] = traceback
    return TEXT, data


def _sender(traceparent: object) -> dict[str, str]:
    """The ids of the send of a job's line, for one that is written outside any span."""
    found = _TRACEPARENT.fullmatch(traceparent) if isinstance(traceparent, str) else None
    return {} if found is None else {"trace_id": found[1], "span_id": found[2]}


def _job_in(args: object) -> Redaction | None:
    for arg in args if isinstance(args, tuple) else ():
        if isinstance(arg, Message | MessageProxy):
            return Redaction.of(get_broker(), arg)
    return None


def _text(record: logging.LogRecord, redaction: Redaction) -> str:
    """The record's text; a message in it is its actor and id, an error what may be shown of it."""
    args = record.args
    if isinstance(args, tuple):
        args = tuple(_shown(arg, redaction) for arg in args)
    try:
        return str(record.msg) % args if args else str(record.msg)
    except Exception:  # the standard library would print the arguments on stderr
        return str(record.msg)


def _shown(arg: object, redaction: Redaction) -> object:
    if isinstance(arg, Message | MessageProxy):
        return f"{arg.actor_name}[{arg.message_id}]"
    if isinstance(arg, BaseException):
        return redaction.error(arg)
    return arg


def _level(number: int) -> str:
    return next((name for least, name in _LEVELS if number >= least), "debug")


def _timestamp(created: float) -> str:
    text = datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds")
    return f"{text[:-6]}Z"  # as JavaScript's toISOString


def _bounded(value: object) -> object:
    if isinstance(value, str):
        return value if len(value) <= _MOST_CHARACTERS else f"{value[:_MOST_CHARACTERS]}…"
    return value if isinstance(value, int | float | None) else type(value).__name__


def _json(line: Mapping[str, Any]) -> str:
    try:
        return _encode(line).decode()
    except (TypeError, ValueError):  # lone surrogates
        return json.dumps(line, separators=(",", ":"), default=lambda value: type(value).__name__)


def _printable(text: str) -> str:
    """The text without what would steer a terminal."""
    return "".join(
        char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text
    )
