"""`python -m broker.health`, as a container's health check runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dramatiq
import pytest

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from broker.heartbeat import Heartbeat
from middleware.scheduler import Scheduler
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


def test_a_heartbeat_is_good_until_the_next_one_is_due(
    namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def checked() -> tuple[int, str]:
        return check("heartbeat", "redis://127.0.0.1:1", namespace)

    assert checked() == (1, "HEADRACE_HEARTBEAT_FILE is not set\n")
    path = tmp_path / "heartbeat"
    monkeypatch.setenv("HEADRACE_HEARTBEAT_FILE", str(path))
    assert checked() == (1, "no heartbeat yet\n")
    Heartbeat(path).beat(60_000)
    assert checked() == (0, "")
    Heartbeat(path).beat(-5_000)
    status, said = checked()
    assert (status, said.startswith("a heartbeat has been due for")) == (1, True)


def test_a_scheduler_that_does_not_reach_the_server_has_no_heartbeat(tmp_path: Path) -> None:
    broker = StreamsBroker(url="redis://127.0.0.1:1", middleware=[])
    Scheduler(broker, [], Heartbeat(tmp_path / "heartbeat")).tick()
    assert not (tmp_path / "heartbeat").exists()


def test_a_server_that_is_away_is_said(namespace: str) -> None:
    status, said = check("consumers", "redis://127.0.0.1:1", namespace)
    assert (status, "ConnectionClosed" in said) == (1, True)
