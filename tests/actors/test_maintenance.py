from __future__ import annotations

import json
import os
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from dramatiq import Message, Worker

from actors.app import application
from actors.maintenance import (
    purge_dead_letters,
    remove_temporary_files,
    report_queues,
    run_maintenance,
    trim_events,
    write_queue_report,
)
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
from tests.waiting import eventually

QUEUE = "maintenance-queue"


@pytest.fixture
def buried(application_broker: StreamsBroker) -> StreamsBroker:
    """A broker whose maintenance queue has one dead letter."""
    bad: Message[None] = Message(
        queue_name=QUEUE,
        actor_name="run_maintenance",
        args=({"taskType": "format_disk", "parameters": {}},),
        kwargs={},
        options={},
    )
    application_broker.enqueue(bad)
    worker = Worker(application_broker, queues={QUEUE}, worker_threads=1, worker_timeout=100)
    worker.start()
    try:
        eventually(
            lambda: application_broker.inspector.queue(QUEUE).dead,
            lambda dead: dead == 1,
            what="burial",
        )
    finally:
        worker.stop()
    return application_broker


def test_an_unknown_task_that_reaches_a_worker_is_buried_at_once(buried: StreamsBroker) -> None:
    (letter,) = buried.inspector.dead(QUEUE)
    assert letter.reason == "invalid"
    assert letter.message is not None
    assert letter.message.options.get("retries", 0) == 0
    assert "format_disk" in str(letter.error)


def test_old_dead_letters_go_and_young_ones_stay(buried: StreamsBroker) -> None:
    assert purge_dead_letters(buried, PurgeDeadLetters(queue=QUEUE)) == 0
    assert buried.inspector.queue(QUEUE).dead == 1
    assert purge_dead_letters(buried, PurgeDeadLetters(older_than_ms=0)) == 1
    assert buried.inspector.queue(QUEUE).dead == 0


def test_events_are_trimmed(application_broker: StreamsBroker) -> None:
    run_maintenance.send(MaintenanceJob(task_type="queue_report"))  # so the queue is known
    key = f"{{{application_broker.namespace}:{QUEUE}}}:events"
    application_broker.client.delete(key)
    for number in range(1_000):
        application_broker.client.xadd(key, {"n": number})
    trimmed = trim_events(application_broker, TrimEvents(queue=QUEUE, max_length=100))
    assert trimmed >= 800
    assert application_broker.client.xlen(key) == 1_000 - trimmed >= 100


def test_a_queue_that_does_not_exist_is_permanent(application_broker: StreamsBroker) -> None:
    with pytest.raises(InvalidPayload, match="letters"):
        trim_events(application_broker, TrimEvents(queue="letters"))


def test_stale_temporary_files_are_removed(tmp_path: Path) -> None:
    stale = tmp_path / f".photo.png.{uuid4().hex}.headrace-part"
    stale.write_bytes(b"x")
    os.utime(stale, (1, 1))
    assert remove_temporary_files(Storage(str(tmp_path)), RemoveTemporaryFiles()) == 1
    assert not stale.exists()


def test_the_report_has_every_queue(application_broker: StreamsBroker, tmp_path: Path) -> None:
    run_maintenance.send(MaintenanceJob(task_type="queue_report"))
    write_queue_report(application_broker, Storage(str(tmp_path)), QueueReport(output="r/q.json"))
    report = json.loads((tmp_path / "r" / "q.json").read_bytes())
    assert report["namespace"] == application_broker.namespace
    queues = {queue["name"]: queue for queue in report["queues"]}
    assert queues[QUEUE]["ready"] == 1


def test_the_default_storage_is_a_local_folder() -> None:
    assert application.storage.url


def test_the_tasks_run_by_the_clock(
    application_broker: StreamsBroker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    storage = msgspec.structs.replace(application.storage, url=str(tmp_path))
    monkeypatch.setattr(
        "actors.maintenance.application", msgspec.structs.replace(application, storage=storage)
    )
    report_queues.options["periodic"].validate(None)  # what periodiq asks when it wakes up
    schedules = application_broker.inspector.schedules
    names = [info.schedule.name for info in schedules.list()]
    assert names == [
        "purge_old_dead_letters",
        "remove_old_temporary_files",
        "report_queues",
        "trim_all_events",
    ]
    for name in names:
        schedules.run_now(name)
    worker = Worker(application_broker, queues={QUEUE}, worker_threads=1, worker_timeout=100)
    worker.start()
    try:
        application_broker.join(QUEUE, interval=20, timeout=10_000)
    finally:
        worker.stop()
    assert application_broker.inspector.queue(QUEUE).dead == 0
    assert (tmp_path / "reports" / "queues.json").exists()
