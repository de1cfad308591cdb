"""Event intake and schedules where streams, queues and schedules lie on different nodes."""

from __future__ import annotations

import json
from typing import Any

import dramatiq

from broker import StreamsBroker
from broker.schedule import Schedule
from middleware.events import on_event
from middleware.intake import EventIntake
from middleware.replay import replay
from middleware.scheduler import Scheduler
from tests.cluster.conftest import ClusterBroker, Queues
from tests.conftest import StartWorker
from tests.waiting import eventually


def options(streams: StreamsBroker, queue: str) -> list[dict[str, Any]]:
    rows: Any = streams.client.xrange(streams.commands.keys(queue).ready[0])
    return [json.loads(fields[b"options"]) for _, fields in rows]


def test_events_go_to_queues_of_every_node(
    client: Any, new_streams: ClusterBroker, queues: Queues, start_worker: StartWorker
) -> None:
    streams = new_streams(client, middleware=[EventIntake()], heartbeat_timeout=600)
    stream, names = f"{streams.namespace}:messages", queues(1)
    actors = []
    for queue in names:

        @on_event(stream)
        @dramatiq.actor(queue_name=queue, actor_name=f"notify_{queue}", broker=streams)
        def notify(fields: dict[str, str]) -> None: ...

        actors.append(notify)
    ids = [client.xadd(stream, {"n": number}).decode() for number in range(3)]
    client.xadd(stream, {"n": b"\xff"})
    start_worker(streams, queues={"another"}, threads=1)
    for queue in names:
        found = eventually(
            lambda queue=queue: options(streams, queue),  # type: ignore[misc]
            lambda found: len(found) == 3,
            what="the messages",
        )
        assert [each["event_id"] for each in found] == ids
    eventually(
        streams.inspector.intake.sources,
        lambda found: [(each.lag, each.pending) for each in found] == [(0, 0)],
        what="the acknowledgements",
    )
    assert len(streams.inspector.intake.aside()) == len(names)
    assert replay(actors[0], stream, name="again", start=ids[1], end=ids[1]) == 1
    client.xgroup_destroy(stream, "headrace")
    last = client.xadd(stream, {"n": 4}).decode()
    for queue in names:
        eventually(
            lambda queue=queue: [each["event_id"] for each in options(streams, queue)],  # type: ignore[misc]
            lambda found: found.count(last) == 1,
            what="the event after its group was destroyed",
        )


def test_schedules_fire_on_every_node(streams: StreamsBroker, queues: Queues) -> None:
    names = queues(1)
    schedules = [
        Schedule(name=f"tick:{queue}", queue=queue, actor="tick", cron="* * * * *", overlap="skip")
        for queue in names
    ]
    for _ in range(2):
        Scheduler(streams, schedules).tick()
    for queue in names:
        (found,) = options(streams, queue)
        assert found["schedule"] == f"tick:{queue}"
    listed = streams.inspector.schedules
    assert [info.schedule.name for info in listed.list()] == sorted(each.name for each in schedules)
    assert {info.outcome for info in listed.list()} == {"unfinished"}
    assert listed.pause(schedules[0].name)
    assert listed.resume(schedules[0].name)
    listed.run_now(schedules[0].name)
    assert len(options(streams, names[0])) == 2
    listed.remove(schedules[0].name)
    assert len(listed.list()) == len(names) - 1
