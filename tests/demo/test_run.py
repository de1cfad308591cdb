"""`python -m actors`, which is `make run`, from outside."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from tests.demo.left_behind import left_behind
from tests.processes import ROOT
from tests.waiting import eventually

EXIT_S = 40.0
READY = "Worker process is ready for action"

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into /proc")


@contextmanager
def running(folder: Path, *arguments: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m actors` with one worker process, in `folder`."""
    inherited = {name: value for name, value in os.environ.items() if "REDIS" not in name}
    process = subprocess.Popen(
        [sys.executable, "-m", "actors", "--processes=1", "--threads=2", *arguments],
        cwd=folder,
        env={**inherited, "PYTHONPATH": python_path(), "TEST_FOLDER": str(folder), **environ},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=EXIT_S)


def python_path() -> str:
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


def wait_for(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    """Read its log up to a line with the pattern."""
    assert process.stderr is not None
    log = []
    for line in process.stderr:
        log.append(line)
        found = re.search(pattern, line)
        if found is not None:
            return found
    raise AssertionError(f"{pattern!r} is not in the log:\n{''.join(log)}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_server_and_workers(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path) as process:
        url = wait_for(process, r"REDIS_URL=(\S+)").group(1)
        wait_for(process, READY)
        with redis.Redis.from_url(url) as client:
            assert client.config_get("appendonly") == {"appendonly": "yes"}
        process.send_signal(number)
        process.communicate(timeout=EXIT_S)
        assert process.returncode == 0
    assert left_behind(tmp_path) == []
    assert (tmp_path / ".headrace").is_dir()


def test_killed_workers_come_back(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        worker = wait_for(process, rf":(\d+)\".*{READY}").group(1)
        os.kill(int(worker), signal.SIGKILL)
        wait_for(process, "workers ended with status 1; next start in")
        assert wait_for(process, rf":(\d+)\".*{READY}").group(1) != worker


def test_a_second_server_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with running(tmp_path) as first:
        wait_for(first, "REDIS_URL=")
        with running(tmp_path) as second:
            wait_for(second, "in use by another server")
            assert second.wait(EXIT_S) == 1


def test_a_given_server_is_used_and_left_alone(
    tmp_path: Path, valkey_server: EmbeddedValkey, namespace: str
) -> None:
    environ = {"REDIS_URL": valkey_server.url, "QUEUE_PREFIX": namespace}
    broker = StreamsBroker(url=valkey_server.url, namespace=namespace)
    with running(tmp_path, **environ) as process:
        wait_for(process, READY)
        eventually(broker.inspector.schedules.list, bool, what="a scheduler")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=EXIT_S)
        assert process.returncode == 0
    assert not (tmp_path / ".headrace").exists()
    with redis.Redis.from_url(valkey_server.url) as client:
        assert client.ping()


def test_jobs_that_can_not_be_imported_end_it(tmp_path: Path) -> None:
    # Dramatiq's own arguments may name more modules; this one isn't there.
    with running(tmp_path, "--", "no_such_module") as process:
        wait_for(process, "No module named 'no_such_module'")
        process.communicate(timeout=EXIT_S)
        assert process.returncode == 2
