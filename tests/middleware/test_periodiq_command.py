"""The `periodiq` command line, unchanged, with real processes that die and freeze."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from tests.processes import ROOT
from tests.servers import ServerKind
from tests.waiting import PATIENCE_S, eventually

QUEUE = "ticks"
MODULE = """
import dramatiq
from broker import StreamsBroker
from middleware.periodic import Periodic, cron

broker = StreamsBroker(url={url!r}, namespace={namespace!r})
broker.add_middleware(Periodic())
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="ticks", periodic=cron("* * * * * *", misfire="all"))
def tick():
    pass


@dramatiq.actor(periodic=cron("@yearly", timezone="Europe/Berlin"))
def audit():
    pass
"""

Start = Callable[..., "Clock"]


class Clock:
    """One `periodiq` process; its log is a file."""

    def __init__(self, folder: Path, log: Path) -> None:
        self._log = log
        command = [str(Path(sys.executable).parent / "periodiq"), "app"]
        path = os.pathsep.join([str(folder), str(ROOT)])
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, stderr=output
            )

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8")

    def wait_for_log(self, text: str) -> None:
        eventually(lambda: self.log, lambda log: text in log, what=repr(text))

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)


@pytest.fixture
def broker(valkey_server: EmbeddedValkey, namespace: str) -> Iterator[StreamsBroker]:
    made = StreamsBroker(url=valkey_server.url, namespace=namespace)
    yield made
    made.close()


@pytest.fixture
def start(valkey_server: EmbeddedValkey, namespace: str, tmp_path: Path) -> Iterator[Start]:
    running: list[Clock] = []

    def launch(url: str = valkey_server.url) -> Clock:
        (tmp_path / "app.py").write_text(MODULE.format(url=url, namespace=namespace))
        running.append(Clock(tmp_path, tmp_path / f"log-{len(running)}"))
        return running[-1]

    yield launch
    for clock in running:
        clock.close()


def entries(broker: StreamsBroker) -> list[tuple[bytes, dict[bytes, bytes]]]:
    client: Any = broker.client
    return list(client.xrange(broker.commands.keys(QUEUE).ready[0]))


def seconds(broker: StreamsBroker) -> list[int]:
    """The second of each fire in the queue, in the order in which they came."""
    fires = [json.loads(fields[b"options"])["fire_time"] for _, fields in entries(broker)]
    return [at_ms // 1_000 for at_ms in fires]


def wait_for_fires(broker: StreamsBroker, count: int) -> list[int]:
    return eventually(
        lambda: seconds(broker), lambda found: len(found) >= count, what=f"{count} fires"
    )


def each_once(found: list[int]) -> bool:
    return all(later == sooner + 1 for sooner, later in pairwise(found))


def test_it_lists_the_actors_and_fires_each_second_in_time(
    start: Start, broker: StreamsBroker
) -> None:
    clock = start()
    assert each_once(wait_for_fires(broker, 3))
    assert re.search(r"\* \* \* \* \* \*\s+app:tick@ticks", clock.log)
    assert re.search(r"@yearly\s+app:audit@default", clock.log)
    late_ms = [int(entry_id.split(b"-")[0]) % 1_000 for entry_id, _ in entries(broker)]
    assert max(late_ms[1:]) < 500


@pytest.mark.faults
def test_54_one_of_two_schedulers_is_killed_and_the_other_one_takes_over_at_once(
    start: Start, broker: StreamsBroker
) -> None:
    killed, _ = start(), start()
    wait_for_fires(broker, 2)
    killed.process.send_signal(signal.SIGKILL)
    before = len(seconds(broker))
    assert each_once(wait_for_fires(broker, before + 2))


@pytest.mark.faults
@pytest.mark.slow
def test_54_a_frozen_scheduler_that_wakes_up_doubles_nothing(
    start: Start, broker: StreamsBroker
) -> None:
    frozen, _ = start(), start()
    wait_for_fires(broker, 2)
    frozen.process.send_signal(signal.SIGSTOP)
    before = len(seconds(broker))
    wait_for_fires(broker, before + 2)
    frozen.process.send_signal(signal.SIGCONT)
    assert each_once(wait_for_fires(broker, before + 4))


@pytest.mark.faults
@pytest.mark.slow
def test_fires_of_the_time_without_a_scheduler_are_made_up_for(
    start: Start, broker: StreamsBroker
) -> None:
    first = start()
    before = len(wait_for_fires(broker, 2))
    first.close()
    start()
    assert each_once(wait_for_fires(broker, before + 3))


@pytest.mark.faults
@pytest.mark.slow
def test_a_scheduler_outlives_its_server(
    start: Start, own_server: Callable[..., EmbeddedValkey], namespace: str
) -> None:
    server = own_server(appendonly=True)
    broker = StreamsBroker(url=server.url, namespace=namespace)
    clock = start(server.url)
    before = len(wait_for_fires(broker, 2))
    server.kill()
    clock.wait_for_log("can't be reached, trying again")
    server.start()
    assert each_once(wait_for_fires(broker, before + 3))
    broker.close()


@pytest.fixture
def server_kind() -> ServerKind:
    """Which server it is makes no difference to this."""
    return "valkey"
