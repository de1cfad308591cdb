"""The benchmark's child processes, seen from the one that measures."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self, TypeVar

import msgspec

from bench import producer, worker
from bench.worker import PATIENCE_S, Drained, Ready, Report, Started

ROOT = Path(__file__).resolve().parents[1]
R = TypeVar("R", bound=Report)


class MeasurementFailed(Exception):
    """A process did not do what it was asked to; there is no figure."""


class WorkerProcess:
    """One `bench.worker`; a context manager that leaves no process behind."""

    def __init__(self, task: worker.Task) -> None:
        self._task = task
        self._process: subprocess.Popen[bytes] | None = None
        #: A file, as in production: some middleware logs every job.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", msgspec.json.encode(self._task).decode()],
            cwd=ROOT,
            env=dict(self._task.peer.environment()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        return self

    def __exit__(self, *_: object) -> None:
        process = self._running()
        process.kill()
        process.communicate()
        self._log.close()

    def wait_ready(self) -> None:
        """Return when it has imported and built everything."""
        self._read(Ready)

    def go(self) -> None:
        """Let it begin."""
        self._write(b"go\n")

    def drained(self) -> Drained:
        """Wait for what it measured."""
        return self._read(Drained)

    def started(self) -> Started:
        """Wait for the next start of a job."""
        return self._read(Started)

    def stop(self) -> None:
        """Let it end the orderly way: what it holds goes back to the queue."""
        self._write(b"stop\n")
        self._running().wait(PATIENCE_S)

    def _read(self, kind: type[R]) -> R:
        process = self._running()
        assert process.stdout is not None
        with _killed_after(process, PATIENCE_S):
            line = process.stdout.readline()
        if not line:
            name = self._task.peer.name
            raise MeasurementFailed(f"the worker with {name} has ended: {self._last_words()}")
        report: Report = msgspec.json.decode(line, type=Report)
        if not isinstance(report, kind):
            raise MeasurementFailed(f"expected {kind.__name__}, got {report!r}")
        return report

    def _last_words(self) -> str:
        self._log.seek(0)
        return self._log.read()[-2_000:].decode("utf-8", "replace")

    def _write(self, line: bytes) -> None:
        stdin = self._running().stdin
        assert stdin is not None
        stdin.write(line)
        stdin.flush()

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process


@contextmanager
def _killed_after(process: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, process.kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def produce(task: producer.Task) -> float:
    """Seconds that a process of its own took for the task.

    Raises:
      MeasurementFailed: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "bench.producer", msgspec.json.encode(task).decode()],
        cwd=ROOT,
        env=dict(task.peer.environment()),
        stdout=subprocess.PIPE,
        timeout=PATIENCE_S,
        check=False,
    )
    if done.returncode != 0:
        raise MeasurementFailed(f"the producer ({task.how}) ended with status {done.returncode}")
    return float(done.stdout)
