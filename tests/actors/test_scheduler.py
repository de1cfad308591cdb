from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from actors.errors import UnknownQueue, WrongPayload
from actors.payloads import FileJob, MaintenanceJob, Notification
from actors.scheduler import schedule_job
from broker import StreamsBroker
from broker.errors import InvalidOption
from middleware.payload import InvalidPayload

NOTE = Notification(type="in-app", user_id="u1", payload={"n": 1})


def total(broker: StreamsBroker) -> int:
    queues = [broker.inspector.queue(name) for name in broker.inspector.queues()]
    return sum(queue.ready + queue.scheduled for queue in queues)


@pytest.mark.parametrize(
    ("queue", "payload", "actor"),
    [
        ("notifications", NOTE, "send_notification"),
        ("notification-queue", NOTE, "send_notification"),
        (
            "file_processing",
            FileJob(file_id="a.png", operation="optimize", options={}),
            "process_file",
        ),
        ("maintenance-queue", MaintenanceJob(task_type="queue_report"), "run_maintenance"),
    ],
)
def test_the_job_is_found_by_queue_and_payload(
    application_broker: StreamsBroker, queue: str, payload: msgspec.Struct, actor: str
) -> None:
    message = schedule_job(queue, payload)
    assert message.actor_name == actor
    assert application_broker.inspector.queue(message.queue_name).ready == 1


@pytest.mark.parametrize("delay", [60_000, timedelta(minutes=1)])
def test_a_delayed_job_is_scheduled(
    application_broker: StreamsBroker, delay: int | timedelta
) -> None:
    message = schedule_job("notifications", NOTE, delay=delay, broker_priority=2)
    info = application_broker.inspector.queue(message.queue_name)
    assert (info.ready, info.scheduled) == (0, 1)
    assert message.options["broker_priority"] == 2


def test_an_unknown_queue_is_named(application_broker: StreamsBroker) -> None:
    with pytest.raises(UnknownQueue) as caught:
        schedule_job("letters", NOTE)
    assert (caught.value.field, caught.value.value) == ("queue", "letters")
    assert "notification-queue" in caught.value.rule
    assert total(application_broker) == 0


def test_a_payload_of_another_queue_is_named(application_broker: StreamsBroker) -> None:
    with pytest.raises(WrongPayload) as caught:
        schedule_job("maintenance", NOTE)
    assert (caught.value.field, caught.value.value) == ("payload", "Notification")
    assert "MaintenanceJob" in caught.value.rule
    assert total(application_broker) == 0


def test_a_bad_payload_is_refused(application_broker: StreamsBroker) -> None:
    bad: Any = Notification(type="fax", user_id="u1", payload={})  # type: ignore[arg-type]
    with pytest.raises(InvalidPayload):
        schedule_job("notifications", bad)
    assert total(application_broker) == 0


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"delay": -1}, "delay"),
        ({"delay": timedelta(seconds=-1)}, "delay"),
        ({"delay": True}, "delay"),
        ({"delay": 1.5}, "delay"),
        ({"priorty": 1}, "priorty"),
        ({"broker_priority": 10}, "broker_priority"),
    ],
)
def test_a_bad_option_is_named(
    application_broker: StreamsBroker, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidOption) as caught:
        schedule_job("notifications", NOTE, **options)
    assert caught.value.field == field
    assert total(application_broker) == 0
