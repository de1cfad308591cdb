"""What events and schedules send is sealed like everything else, and runs."""

from __future__ import annotations

from typing import Any

import dramatiq

from broker import StreamsBroker
from broker.schedule import Schedule
from middleware.encryption import Encryption
from middleware.events import on_event
from middleware.scheduler import Scheduler
from tests.conftest import StartWorker
from tests.middleware.sealed import RING, Build
from tests.waiting import eventually


def test_messages_of_events_and_of_schedules_are_sealed_and_run(
    build: Build, start_worker: StartWorker
) -> None:
    broker: StreamsBroker = build(Encryption(RING, default=True))
    stream = f"{broker.namespace}:posted"
    got: list[Any] = []

    @on_event(stream)
    @dramatiq.actor(queue_name="mentions", broker=broker)
    def notify(fields: dict[str, str]) -> None:
        got.append(fields["text"])

    @dramatiq.actor(queue_name="mentions", broker=broker)
    def tick() -> None:
        got.append("tick")

    Scheduler(
        broker, [Schedule(name="tick", queue="mentions", actor="tick", cron="* * * * *")]
    ).tick()
    client: Any = broker.client
    client.xadd(stream, {"text": "canary"})
    ready = broker.commands.keys("mentions").ready[0]
    for _, fields in client.xrange(ready):
        assert b"sealed" in fields
    start_worker(broker)
    eventually(lambda: sorted(got), lambda found: found == ["canary", "tick"], what="both jobs")
    assert broker.inspector.queue("mentions").dead == 0
