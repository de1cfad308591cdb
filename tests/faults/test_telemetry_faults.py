"""Row 61: what workers emit goes nowhere, and nobody's job notices."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Source, valkey_only
from tests.faults.history import History
from tests.processes import Launcher
from tests.waiting import eventually

JOBS = 3_000
#: What a worker may grow by over these, once as many have run whose spans nobody takes: a third
#: of a kilobyte a job. The spans that wait are bounded: 512, which the first jobs have filled.
GROWTH_MB = 1.0

BODY = """
from otel.sdk import Service
from otel.settings import ExportSettings, TelemetrySettings
from otel.stack import layers

found = layers(TelemetrySettings(), Service("shop", "worker", "test"), ExportSettings.load())
for each in reversed(found.above):
    broker.add_middleware(each, before=type(broker.middleware[0]))
for each in found.below:
    broker.add_middleware(each)


@dramatiq.actor(queue_name="work", max_retries=0)
def short(label):
    note("done", label)
"""


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of something that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@valkey_only
@pytest.mark.slow
@pytest.mark.parametrize("collector", ["away", "silent"])
def test_61_a_collector_that_is_away_or_silent_costs_no_job_and_no_memory(
    launch: Launcher, source: Source, history: History, silent: str, collector: str
) -> None:
    endpoint = "http://127.0.0.1:1" if collector == "away" else silent
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
    }
    worker = launch(source(BODY), threads=4, environment=environment)
    (pid,) = worker.wait_until_ready()
    before = _resident_mb(pid, after=history, jobs=JOBS)
    after = _resident_mb(pid, after=history, jobs=JOBS)
    history.measure("growth MB", after - before)
    assert after - before < GROWTH_MB
    history.check(failures=0)
    assert worker.terminate() == 0


def _resident_mb(pid: int, *, after: History, jobs: int) -> float:
    """The worker's memory after so many jobs more."""
    sent = after.send_many("short", range(jobs))
    eventually(after.finished, set(sent).issubset, what="the jobs", timeout_s=60)
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6
