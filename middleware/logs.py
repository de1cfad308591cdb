"""What happens to jobs, as log lines; and the shape of every line a worker process writes."""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any, Final

import structlog
from dramatiq import Broker, Message
from dramatiq.broker import MessageProxy
from dramatiq.errors import RateLimitExceeded, Retry
from dramatiq.middleware import Middleware, Shutdown

from broker.delivery import Delivery
from broker.outcome import Bury, Park, Parked
from broker.outcome import Retry as RetryOutcome
from broker.process_settings import LoggingSettings
from middleware.correlation import OPTION
from middleware.log_lines import FIELDS, ConsoleLines, JsonLines
from middleware.redaction import Redaction, running

_log: Final = logging.getLogger("headrace.jobs")
_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
# They say what our own events say with more, or the addresses they talk to, secrets included.
_LEAST: Final = {
    "dramatiq.middleware.retries.Retries": logging.ERROR,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
}
# Dramatiq's ways to say "not now": no failures.
_POSTPONED: Final = (Retry, RateLimitExceeded)

_started: ContextVar[float] = ContextVar("headrace_started", default=0.0)


class Logs(Middleware):
    """Writes a line for each step of a job's life, and sets the logging of worker processes up.

    A process that only enqueues, or runs a worker of its own making, keeps the logging that
    its application has set up.
    """

    def __init__(self, settings: LoggingSettings) -> None:
        self._settings = settings

    def after_process_boot(self, broker: Broker) -> None:
        if multiprocessing.parent_process() is not None:  # Dramatiq's command line has made it
            set_up(self._settings)

    def after_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        if not _log.isEnabledFor(logging.INFO) or _is_retry(message):
            return
        if delay:
            _write(logging.INFO, "job_scheduled", message, actor=message.actor_name, delay=delay)
        else:
            _write(logging.INFO, "job_queued", message)

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        running.set(Redaction.of(broker, message))
        _started.set(time.monotonic())
        if _log.isEnabledFor(logging.DEBUG):
            _write(
                *(logging.DEBUG, "job_started", message),
                actor=message.actor_name,
                attempt=_attempt(message),
            )

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        duration = round((time.monotonic() - _started.get()) * 1000)
        if exception is None:
            if not message.failed:
                _write(logging.INFO, "job_completed", message, duration=duration)
        elif isinstance(exception, Shutdown):
            _write(logging.INFO, "job_released", message, duration=duration)
        elif not isinstance(exception, _POSTPONED) or message.failed:
            error = Redaction.of(broker, message).error(exception)
            _write(logging.ERROR, "job_failed", message, duration=duration, error=error)
        _write_retry(message)
        running.set(None)

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        outcome = message.outcome if isinstance(message, Delivery) else None
        data = {"delay": outcome.delay_ms} if isinstance(outcome, Park) else {}
        event = "job_parked" if isinstance(outcome, Park | Parked) else "job_skipped"
        _write(logging.INFO, event, message, actor=message.actor_name, **data)
        running.set(None)

    def after_nack(self, broker: Broker, message: MessageProxy) -> None:
        if not isinstance(message, Delivery) or not isinstance(message.outcome, Bury):
            return
        exception = message.exception
        redaction = Redaction.of(broker, message)
        _write(
            *(logging.ERROR, "job_dead", message),
            actor=message.actor_name,
            reason=message.outcome.reason,
            error="rejected" if exception is None else redaction.error(exception),
        )


def set_up(settings: LoggingSettings) -> None:
    """Shape all that this process logs, prints or warns of; for worker processes.

    Dramatiq's command line has made a handler by now, whose pipe is kept. With its
    ``--skip-logging`` there may be none, and stderr is used.
    """
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.StreamHandler())
    terminal = os.isatty(2)  # sys.stderr is a pipe to Dramatiq's main process
    console = settings.format == "console" or (settings.format == "auto" and terminal)
    formatter = ConsoleLines(colors=terminal) if console else JsonLines()
    for handler in root.handlers:
        handler.setFormatter(formatter)
    if root.level != logging.DEBUG:  # Dramatiq's --verbose
        root.setLevel(_LEVELS[settings.level])
    for name, level in _LEAST.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(True)
    threading.excepthook = _log_uncaught
    if not console:
        sys.stdout, sys.stderr = _Printed("stdout"), _Printed("stderr")
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, _to_record],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


class _Printed(io.TextIOBase):
    """Stands for stdout or stderr: what is printed becomes log lines."""

    def __init__(self, name: str) -> None:
        self._log = logging.getLogger(name)
        self._own = threading.local()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if getattr(self._own, "writing", False):
            return len(text)  # what logging says of a handler that fails, for ever
        *lines, self._own.rest = (getattr(self._own, "rest", "") + text).split("\n")
        self._own.writing = True
        try:
            for line in filter(None, lines):
                self._log.info("%s", line)
        finally:
            self._own.writing = False
        return len(text)


def _to_record(
    logger: Any, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """structlog's last step: the standard library's record, with the fields that are allowed."""
    extra = {name: event[name] for name in FIELDS if name in event}
    known = {name: event[name] for name in ("exc_info", "stack_info") if name in event}
    return {"msg": event["event"], "extra": {"event": str(event["event"]), **extra}, **known}


def _log_uncaught(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        name = "?" if args.thread is None else args.thread.name
        logging.getLogger("threading").critical("Thread %s died.", name, exc_info=args.exc_value)


def _write(level: int, event: str, message: Message[Any] | MessageProxy, **data: Any) -> None:
    if _log.isEnabledFor(level):
        data |= {
            "event": event,
            "queueName": message.queue_name,
            "jobId": message.message_id,
            # Of the message, not the context: some steps come after its chain is forgotten.
            "correlationId": message.options.get(OPTION),
        }
        _log.log(level, event, extra=data)


def _write_retry(message: MessageProxy) -> None:
    outcome = message.outcome if isinstance(message, Delivery) else None
    if isinstance(outcome, RetryOutcome):
        _write(
            *(logging.INFO, "job_retrying", message),
            actor=message.actor_name,
            attempt=_attempt(message),
            delay=outcome.delay_ms,
        )


def _is_retry(message: Message[Any]) -> bool:
    job = running.get()
    return job is not None and job.message.message_id == message.message_id


def _attempt(message: MessageProxy) -> int:
    retries = message.options.get("retries", 0)
    return retries + 1 if isinstance(retries, int) else 1
