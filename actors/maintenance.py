"""maintenance-queue: housekeeping, one function a task."""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from actors import current
from actors.app import application
from actors.job import job
from actors.payloads import (
    MaintenanceJob,
    PurgeDeadLetters,
    QueueReport,
    RemoveTemporaryFiles,
    TrimEvents,
)
from actors.storage import Storage
from broker import StreamsBroker
from middleware.payload import InvalidPayload
from middleware.periodic import cron

_log = logging.getLogger(__name__)


QUEUE: Final = "maintenance-queue"


@job(queue_name=QUEUE)
def run_maintenance(maintenance: MaintenanceJob) -> None:
    """Run the task; each may be interrupted anywhere and repeated."""
    task = maintenance.task()
    broker = current.streams_broker()
    if isinstance(task, PurgeDeadLetters):
        purge_dead_letters(broker, task)
    elif isinstance(task, TrimEvents):
        trim_events(broker, task)
    elif isinstance(task, RemoveTemporaryFiles):
        remove_temporary_files(Storage(application.storage.url), task)
    else:
        write_queue_report(broker, Storage(application.storage.url), task)


# What runs by the clock, with each task's defaults. Other parameters: `run_maintenance.send(…)`,
# or a schedule of one's own by `broker.inspector.schedules.add("…", "run_maintenance", …)`.


@job(queue_name=QUEUE, periodic=cron("12 3 * * *", overlap="skip"))
def purge_old_dead_letters() -> None:
    """Every night: drop the dead letters of more than a week ago."""
    purge_dead_letters(current.streams_broker(), PurgeDeadLetters())


@job(queue_name=QUEUE, periodic=cron("42 * * * *", overlap="skip"))
def trim_all_events() -> None:
    """Every hour: shorten the event streams."""
    trim_events(current.streams_broker(), TrimEvents())


@job(queue_name=QUEUE, periodic=cron("27 4 * * *", overlap="skip"))
def remove_old_temporary_files() -> None:
    """Every night: remove what file jobs that were killed left a day ago."""
    remove_temporary_files(Storage(application.storage.url), RemoveTemporaryFiles())


@job(queue_name=QUEUE, periodic=cron("*/15 * * * *", misfire="skip", overlap="skip"))
def report_queues() -> None:
    """Every quarter of an hour: write the queues' counts into the storage."""
    write_queue_report(current.streams_broker(), Storage(application.storage.url), QueueReport())


def purge_dead_letters(broker: StreamsBroker, task: PurgeDeadLetters) -> int:
    """Drop old dead letters for good; returns how many."""
    purged = 0
    for queue in _queues(broker, task.queue):
        count = broker.inspector.purge_dead(queue, older_than_ms=task.older_than_ms)
        _log.info("purged %d dead letters of queue %s", count, queue)
        purged += count
    return purged


def trim_events(broker: StreamsBroker, task: TrimEvents) -> int:
    """Shorten the queues' event streams, in bounded steps; returns how many entries went."""
    trimmed = 0
    for queue in _queues(broker, task.queue):
        count = broker.inspector.trim_events(queue, task.max_length)
        _log.info("trimmed %d events of queue %s", count, queue)
        trimmed += count
    return trimmed


def remove_temporary_files(storage: Storage, task: RemoveTemporaryFiles) -> int:
    """Remove what killed file jobs left in the storage; returns how many files."""
    removed = storage.remove_temporary(older_than_ms=task.older_than_ms)
    _log.info("removed %d temporary files", removed)
    return removed


def write_queue_report(broker: StreamsBroker, storage: Storage, task: QueueReport) -> None:
    """Write every queue's counts into the storage as one JSON object, and log them."""
    queues = [broker.inspector.queue(name) for name in broker.inspector.queues()]
    for info in queues:
        _log.info("queue report: %s", info)
    report = {"namespace": broker.namespace, "queues": queues}
    storage.write(task.output, msgspec.json.format(msgspec.json.encode(report)))


def _queues(broker: StreamsBroker, queue: str | None) -> list[str]:
    known = broker.inspector.queues()
    if queue is None:
        return known
    if queue not in known:
        rule = f"unknown queue {queue!r}, must be one of {', '.join(known)}"
        raise InvalidPayload("run_maintenance", "$.parameters.queue", rule)
    return [queue]
