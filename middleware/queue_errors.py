"""Which log records are troubles of a queue, and not of a job."""

from __future__ import annotations

import logging
import re
import threading
from collections import Counter
from typing import TypeAlias

from broker.failures import FailureKind

#: What a queue's errors are counted under, beside the reasons of dead letters.
REASON = "queue_error"

#: Queue, or "" for none, and kind -> how often.
QueueErrorCounts: TypeAlias = Counter[tuple[str, FailureKind]]

_MOST_KINDS = 200
_CONSUMER = re.compile(r"dramatiq\.worker\.ConsumerThread\((?P<queue>.*)\)")
_PREFIXES = ("broker.", "dramatiq.broker.", "dramatiq.worker.ConsumerThread")
_BURIALS = "broker.consumer."  # of what can't be read; counted as dead letters
_WORKER = "dramatiq.worker.Worker"  # and not WorkerThread, whose errors are jobs'


def is_queue_error(record: logging.LogRecord) -> bool:
    """Whether the record tells of a consumer, a settlement, a lease or the server."""
    name = record.name
    return record.levelno >= logging.WARNING and (name.startswith(_PREFIXES) or name == _WORKER)


def queue_of(record: logging.LogRecord) -> str | None:
    """The queue that the record is about, where it says so."""
    if (consumer := _CONSUMER.fullmatch(record.name)) is not None:
        return consumer["queue"]
    found = record.__dict__.get("queueName")
    return found if isinstance(found, str) else None


class QueueErrors(logging.Handler):
    """Counts the errors of queues by what they are; attach it to the root logger. Thread-safe."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._counts: QueueErrorCounts = Counter()
        self._counting = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        if is_queue_error(record) and not record.name.startswith(_BURIALS):
            kind = FailureKind(REASON, "", _type_of(record))
            self.put_back(Counter({(queue_of(record) or "", kind): 1}))

    def take(self) -> QueueErrorCounts:
        """What was counted since the last call."""
        with self._counting:
            taken, self._counts = self._counts, Counter()
        return taken

    def put_back(self, counts: QueueErrorCounts) -> None:
        """Count these as well."""
        with self._counting:
            for key, count in counts.items():
                known = key in self._counts or len(self._counts) < _MOST_KINDS
                self._counts[key if known else ("", FailureKind("other", "", ""))] += count


def _type_of(record: logging.LogRecord) -> str:
    error = record.exc_info[1] if record.exc_info else None
    args = record.args if isinstance(record.args, tuple) else ()
    errors = (arg for arg in (error, *args) if isinstance(arg, BaseException))
    first = next(errors, None)
    return record.name.rpartition(".")[2] if first is None else type(first).__name__
