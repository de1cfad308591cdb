"""`python -m broker.health`, as a container's health check runs it."""

from __future__ import annotations

import os
import subprocess
import sys

import dramatiq
import pytest

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from broker.schedule import Schedule
from tests.conftest import NewBroker, StartWorker
from tests.processes import ROOT
from tests.waiting import eventually


@pytest.fixture
def broker(valkey_server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    made = new_broker("streams", valkey_server.url)
    assert isinstance(made, StreamsBroker)
    return made


def check(what: str, url: str, namespace: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "broker.health", what],
        cwd=ROOT,
        env={**os.environ, "REDIS_URL": url, "QUEUE_PREFIX": namespace},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stderr


def test_a_worker_is_healthy_while_its_host_has_a_live_consumer(
    valkey_server: EmbeddedValkey, namespace: str, broker: StreamsBroker, start_worker: StartWorker
) -> None:
    @dramatiq.actor(queue_name="mail")
    def greet() -> None:
        pass

    status, said = check("consumers", valkey_server.url, namespace)
    assert (status, "no queue has a live consumer" in said) == (1, True)
    greet.send()
    start_worker(broker)
    eventually(lambda: broker.inspector.live_consumers("mail", 60_000), bool)
    assert check("consumers", valkey_server.url, namespace) == (0, "")


def test_a_scheduler_is_healthy_until_a_fire_is_long_overdue(
    valkey_server: EmbeddedValkey, namespace: str, broker: StreamsBroker
) -> None:
    tick = Schedule(name="tick", queue="mail", actor="greet", cron="* * * * *")
    broker.inspector.schedules.put(tick, declared=False)
    assert check("schedules", valkey_server.url, namespace) == (0, "")
    state = broker.commands.keys("mail").schedules_state
    broker.client.hset(state, "mark:tick", "1000")
    status, said = check("schedules", valkey_server.url, namespace)
    assert (status, said.startswith("tick has been due for")) == (1, True)


def test_a_server_that_is_away_is_said(namespace: str) -> None:
    status, said = check("server", "redis://127.0.0.1:1", namespace)
    assert (status, "ConnectionClosed" in said) == (1, True)
