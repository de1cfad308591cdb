"""The real command line, `python -m dramatiq`, as a test sees it: signals, logs, exit code."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parent.parent
# Dramatiq's own format, and ours, where the process stands in place of a chain.
_PROCESS = r"(?:\[PID |\"correlationId\":\"[^\"]*:)(\d+)"
READY = re.compile(rf"{_PROCESS}.*Worker process is ready for action")


class CommandLine:
    """One `python -m dramatiq worker_module …`, with its worker processes.

    It runs in a session of its own, so that `close` ends every process of it,
    also those that are stopped or that lost their parent.
    """

    def __init__(
        self,
        folder: Path,
        source: str,
        arguments: Sequence[str] = (),
        *,
        processes: int = 1,
        threads: int = 2,
        module: str = "worker_module",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.module = folder / "worker_module.py"
        self.processes = processes
        self._lines: list[str] = []
        self._changed = threading.Condition()
        folder.mkdir(parents=True, exist_ok=True)
        self.module.write_text(source, encoding="utf-8")
        command = [sys.executable, "-m", "dramatiq", module]
        command += ["--processes", str(processes), "--threads", str(threads), *arguments]
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=_environment(folder, environment or {}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        # A session's leader gives its id to the group; known also after the leader has gone.
        self._group = self._process.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The main process."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the main process has exited."""
        return self._process.poll() is not None

    @property
    def log(self) -> str:
        """Everything logged so far by the main process and its workers."""
        with self._changed:
            return "".join(self._lines)

    def wait_until_ready(self, *, boots: int = 1, timeout_s: float = PATIENCE_S) -> list[int]:
        """Wait until every worker process has booted `boots` times; their ids, oldest first."""
        expected = self.processes * boots
        found = self.wait_for_log(READY, count=expected, timeout_s=timeout_s)
        return [int(pid) for pid in found]

    def wait_for_log(
        self, pattern: str | re.Pattern[str], *, count: int = 1, timeout_s: float = PATIENCE_S
    ) -> list[str]:
        """Wait until the pattern is in the log `count` times; what it found.

        Raises:
          AssertionError: when it is not there in time, or the process has ended
            without it; it shows the log.
        """
        wanted = re.compile(pattern)
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while len(found := wanted.findall("".join(self._lines))) < count:
                left = deadline - time.monotonic()
                if left <= 0 or not self._reader.is_alive():
                    log = "".join(self._lines)
                    raise AssertionError(f"{wanted.pattern!r} x{count} is not in the log:\n{log}")
                self._changed.wait(min(left, 0.5))
        return found

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the main process only."""
        self._process.send_signal(number)

    def kill_everything(self) -> None:
        """SIGKILL to the main process and all workers at once, as a machine that loses power.

        Returns when all have gone: until then the server may still answer one of them.
        """
        _signal_group(self._group, signal.SIGKILL)
        self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """The exit code of the main process.

        Raises:
          AssertionError: when it has not ended in time; it shows the log.
        """
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s:\n{self.log}") from None

    def terminate(self, timeout_s: float = PATIENCE_S) -> int:
        """SIGTERM, as a supervisor sends it, and the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def close(self) -> None:
        """End every process of this command, whatever state it is in."""
        _signal_group(self._group, signal.SIGKILL)
        self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._changed:
                self._lines.append(line.decode("utf-8", "replace"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()


class Launcher(Protocol):
    """What the fixture `launch` is: the arguments of `CommandLine` without the folder."""

    def __call__(
        self,
        source: str,
        *arguments: str,
        processes: int = 1,
        threads: int = 2,
        module: str = "worker_module",
        environment: Mapping[str, str] | None = None,
    ) -> CommandLine: ...


def _environment(folder: Path, extra: Mapping[str, str]) -> dict[str, str]:
    return {
        **os.environ,
        # As in an activated environment: on a reload Dramatiq starts "python" by its name.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "PYTHONUNBUFFERED": "1",
        "dramatiq_restart_delay": "200",
        **extra,
    }


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # everything has ended by itself
        os.killpg(group, number)
