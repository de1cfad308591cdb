"""Row 55: who sweeps is killed; what kept others from sweeping meanwhile ends with its lease."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from broker.schedule import Schedule
from middleware.scheduler import Scheduler
from tests.applications import Effects, application
from tests.processes import Launcher
from tests.servers import ServerKind

QUEUE = "maintenance"
LEASE_MS = 1_500
BODY = """
@dramatiq.actor(queue_name="maintenance")
def sweep():
    note("started")
    wait_for_permission("sweep")
    note("done")
"""


@pytest.fixture
def server_kind() -> ServerKind:
    """Which server it is makes no difference to this."""
    return "valkey"


@pytest.fixture
def effects(server: EmbeddedValkey, namespace: str) -> Iterator[Effects]:
    made = Effects(server.url, namespace)
    yield made
    made.close()


@pytest.mark.faults
def test_55_a_killed_sweeper_keeps_the_next_one_back_for_its_lease_only(
    server: EmbeddedValkey, namespace: str, launch: Launcher, effects: Effects
) -> None:
    broker = StreamsBroker(url=server.url, namespace=namespace)
    now_ms, _ = broker.schedule_commands.look(QUEUE)
    hourly = f"{(now_ms // 60_000 + 30) % 60} * * * *"  # none comes due by itself meanwhile
    timing = Schedule(
        name="sweep", queue=QUEUE, actor="sweep", cron=hourly, overlap="skip", misfire="all"
    )
    scheduler = Scheduler(broker, [timing])

    def another_hour() -> int | None:
        state = broker.commands.keys(QUEUE).schedules_state
        broker.client.hincrby(state, "mark:sweep", -3_600_000)
        scheduler.tick()
        return broker.inspector.schedules.get("sweep").skipped

    source = application("streams", server.url, namespace, BODY, heartbeat_timeout=LEASE_MS)
    scheduler.tick()
    assert another_hour() == 0
    killed = launch(source)
    effects.next("started")
    killed.kill_everything()
    assert another_hour() == 1  # it has not ended, as far as anybody knows
    effects.permit("sweep", 2)
    launch(source)
    effects.next("done")
    broker.join(QUEUE, interval=20, timeout=10_000)
    assert another_hour() == 1
    effects.next("done")
    assert len([effect for effect in effects.all if effect.event == "started"]) == 3
    broker.close()
