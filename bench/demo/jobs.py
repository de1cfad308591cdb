"""What the demo adds to the workers, as `dramatiq actors bench.demo.jobs`: jobs that kill their
worker, never end, are limited, and a middleware that notes when each job started and ended."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq import Broker, Worker
from dramatiq.broker import MessageProxy
from dramatiq.middleware import CurrentMessage, Interrupt, Middleware

from actors import current
from actors.job import job
from actors.notifications import send_notification
from actors.payloads import Notification
from bench.demo.journal import Event, JournalWriter
from broker import JobCancelled, Rate
from middleware.periodic import cron

JOURNAL_VARIABLE = "HEADRACE_DEMO_JOURNAL"
"""Names the file that events are appended to; without it nothing is noted."""
CONTROL_QUEUE = "control-queue"
RATE = Rate(5, per_ms=1_000)
FIRED = "fired"


@job(queue_name="notification-queue")
def kill_worker() -> None:
    """Die as a process does that runs out of memory: at once, with nothing handed back."""
    os.kill(os.getpid(), signal.SIGKILL)


@job(queue_name="notification-queue")
def welcome(user_id: str) -> None:
    """Send a notification, then fail once: what a trace of several jobs looks like."""
    message = CurrentMessage.get_current_message()
    if message is not None and not message.options.get("retries"):
        send_notification.send(
            Notification(type="in-app", user_id=user_id, payload={"text": "Welcome!"})
        )
        raise TimeoutError("the profile is not ready yet")


@job(queue_name=CONTROL_QUEUE, rate_key="demo", rate=RATE)
def limited(number: int) -> None:
    """Note when it starts: a run that the limit parks does not get here."""
    note("started")


@job(queue_name=CONTROL_QUEUE, periodic=cron("* * * * * *"))
def tick() -> None:
    """Note that the scheduler has made it."""
    note(FIRED)


@job(queue_name=CONTROL_QUEUE)
def endless() -> None:
    """Run until somebody cancels it."""
    note("started")
    try:
        while True:
            time.sleep(0.05)
    except JobCancelled:
        note("cancelled")
        raise


def note(text: str) -> None:
    """Put what the running job says into the journal, with the time."""
    if _writer is not None:
        _writer.write(
            Event(
                kind="noted",
                at_ms=_now_ms(),
                pid=os.getpid(),
                message_id=current.message_id(),
                note=text,
            )
        )


class Journal(Middleware):
    """Notes each start and end. Added last, so nothing stands between it and the job."""

    def __init__(self, writer: JournalWriter) -> None:
        self._writer = writer

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        """The process takes jobs from here on."""
        self._writer.write(Event(kind="boot", at_ms=_now_ms(), pid=os.getpid()))

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        """On disk before the job runs, since the job may not return."""
        self._writer.write(
            Event(
                kind="start",
                at_ms=_now_ms(),
                pid=os.getpid(),
                message_id=message.message_id,
                queue=message.queue_name,
            )
        )

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """An interrupt by shutdown is no failure: the job goes back to its queue."""
        interrupted = isinstance(exception, Interrupt)
        self._writer.write(
            Event(
                kind="done" if exception is None else "interrupted" if interrupted else "failed",
                at_ms=_now_ms(),
                pid=os.getpid(),
                message_id=message.message_id,
                queue=message.queue_name,
                error="" if exception is None else type(exception).__name__,
            )
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


_writer = (
    JournalWriter(Path(os.environ[JOURNAL_VARIABLE])) if JOURNAL_VARIABLE in os.environ else None
)
if _writer is not None:
    dramatiq.get_broker().add_middleware(Journal(_writer))
