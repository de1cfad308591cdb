"""What happens to jobs, as log lines; and the shape of every line of workers and schedulers."""

from __future__ import annotations

import logging
import multiprocessing
import time
from contextvars import ContextVar
from typing import Any, Final

from dramatiq import Broker, Message, Worker
from dramatiq.broker import MessageProxy
from dramatiq.errors import RateLimitExceeded, Retry
from dramatiq.middleware import Middleware, Shutdown

from broker.delivery import Delivery
from broker.errors import AwaitsDeploy
from broker.outcome import Bury, Park, Parked
from broker.outcome import Retry as RetryOutcome
from broker.process_settings import LoggingSettings
from middleware.correlation import OPTION
from middleware.log_output import JOBS, Output, start
from middleware.redaction import Redaction, running

_log: Final = logging.getLogger(JOBS)
# Ways to say "not now": no failures.
_POSTPONED: Final = (Retry, RateLimitExceeded, AwaitsDeploy)

_started: ContextVar[float] = ContextVar("headrace_started", default=0.0)


class Logs(Middleware):
    """Writes a line for each step of a job's life.

    It sets the logging of worker processes and schedulers up. A process that only enqueues,
    or runs a worker of its own making, keeps the logging that its application has set up.
    """

    def __init__(self, settings: LoggingSettings) -> None:
        self._settings = settings
        self._output: Output | None = None

    def after_process_boot(self, broker: Broker) -> None:
        if multiprocessing.parent_process() is not None:  # Dramatiq's command line has made it
            self._output = Output(self._settings)

    def after_scheduler_boot(self, broker: Broker) -> None:
        start(self._settings)

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        if self._output is not None:
            self._output.end()

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
        duration = _duration_ms()
        if exception is None:
            if not message.failed:
                _write(logging.INFO, "job_completed", message, duration=duration)
        elif _is_cancelled(message):
            _write(logging.INFO, "job_cancelled", message, duration=duration)
        elif isinstance(exception, Shutdown):
            _write(logging.INFO, "job_released", message, duration=duration)
        elif not isinstance(exception, _POSTPONED):
            error = Redaction.of(broker, message).error(exception)
            _write(logging.ERROR, "job_failed", message, duration=duration, error=error)
        _write_retry(message)
        running.set(None)

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        outcome = message.outcome if isinstance(message, Delivery) else None
        data = {"delay": outcome.delay_ms} if isinstance(outcome, Park) else {}
        event = "job_parked" if isinstance(outcome, Park | Parked) else "job_skipped"
        if _is_cancelled(message):
            event = "job_cancelled"
        _write(logging.INFO, event, message, actor=message.actor_name, **data)
        _started.set(0.0)
        running.set(None)

    def after_nack(self, broker: Broker, message: MessageProxy) -> None:
        _write_retry(message)  # of one that waits for a deploy
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


def _write(level: int, event: str, message: Message[Any] | MessageProxy, **data: Any) -> None:
    if _log.isEnabledFor(level):
        data |= {
            "name": _log.name,
            "levelno": level,
            "levelname": logging.getLevelName(level),
            "msg": event,
            "event": event,
            "queueName": message.queue_name,
            "jobId": message.message_id,
            # Of the message, not the context: some steps come after its chain is forgotten.
            "correlationId": message.options.get(OPTION),
            "traceparent": message.options.get("traceparent"),
        }
        # Not log(): looking for the line of the call costs as much as all of the rest.
        _log.handle(logging.makeLogRecord(data))


def _duration_ms() -> int:
    began = _started.get()
    _started.set(0.0)
    # A middleware above may have refused the message before its clock started.
    return round((time.monotonic() - began) * 1000) if began else 0


def _is_cancelled(message: MessageProxy) -> bool:
    return isinstance(message, Delivery) and message.cancelled


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
