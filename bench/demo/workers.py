"""The demo's processes: the real command lines, restarted when a job kills the workers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from actors.supervisor import (
    Backoff,
    Change,
    Died,
    Supervisor,
    dramatiq_command,
    periodiq_command,
)
from bench.demo.jobs import JOURNAL_VARIABLE
from middleware.keyring import new_key

NAMESPACE = "demo"
PROCESSES = 2
THREADS = 6
STOP_S = 15.0
_MODULES = ("actors", "bench.demo.jobs")
WORKERS = dramatiq_command(*_MODULES, processes=PROCESSES, threads=THREADS, shutdown_ms=10_000)
SCHEDULER = periodiq_command(*_MODULES)

#: Settings of an application on this machine, which must not reach the demo's workers.
_OURS = (
    "REDIS_",
    "SMTP_",
    "PUSH_",
    "STORAGE_",
    "IMAGE_",
    "INBOX_",
    "DIGEST_",
    "HEADRACE_",
    "QUEUE_PREFIX",
)

# Shorter waits between attempts than in earnest: the demo shows retries, not patience. And
# every record is kept, to be compared with what happened.
_SETTINGS = """\
[encryption]
default = true
require = true

[queues.notifications]
backoff = { type = "exponential", delay = 300 }
remove_on_complete = false

[queues.file_processing]
backoff = { type = "exponential", delay = 300 }
remove_on_complete = false

[queues.maintenance]
backoff = { type = "fixed", delay = 300 }
"""


def environment(
    folder: Path, *, redis_url: str, smtp_port: int, push_url: str, base: Mapping[str, str]
) -> dict[str, str]:
    """The workers' settings; `folder` holds the storage, the settings file and the journal."""
    settings = folder / "settings.toml"
    settings.write_text(_SETTINGS, encoding="utf-8")
    inherited = {name: value for name, value in base.items() if not name.startswith(_OURS)}
    root = str(Path(__file__).resolve().parents[2])
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(filter(None, (root, base.get("PYTHONPATH")))),
        "NO_PROXY": "127.0.0.1",  # the sinks are here, whatever proxy is configured
        "no_proxy": "127.0.0.1",
        "REDIS_URL": redis_url,
        "QUEUE_PREFIX": NAMESPACE,
        "HEADRACE_ENV": "development",
        "HEADRACE_SETTINGS": str(settings),
        "HEADRACE_KEYS": f"demo:{new_key()}",
        "STORAGE_URL": str(folder / "storage"),
        "SMTP_HOST": "127.0.0.1",
        "SMTP_PORT": str(smtp_port),
        "SMTP_FROM": "demo@example.org",
        "PUSH_GATEWAY_URL": push_url,
        "DIGEST_PAUSE_MS": "3000",
        JOURNAL_VARIABLE: str(folder / "journal.jsonl"),
    }


class Program:
    """A command under a supervisor; a context manager.

    Leaving it kills what `stop` has not stopped: no process is left behind.
    """

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        self.log = log
        self._command = command
        self.deaths: list[Died] = []
        #: When the last of them was; unix ms, 0 before the first.
        self.died_at_ms = 0
        self._environ = environ
        self._output: IO[bytes] | None = None
        self._code: int | None = None
        self._supervisor: Supervisor | None = None
        self._thread = threading.Thread(target=self._run, name=log.stem, daemon=True)

    @property
    def running(self) -> bool:
        """Whether they are kept running; False once stopped, or when a start was hopeless."""
        return self._thread.is_alive()

    def __enter__(self) -> Self:
        self._output = self.log.open("wb")
        self._supervisor = Supervisor(
            self._command,
            environ=self._environ,
            output=self._output,
            backoff=Backoff(first_s=0.05, most_s=0.5),
            stop_s=STOP_S,
            give_up_on=frozenset({2}),  # an import failed: it would fail again
            on_change=self._note,
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._supervisor is not None:
            self._supervisor.stop()
            self._supervisor.stop()
        self._thread.join()
        if self._output is not None:
            self._output.close()

    def stop(self) -> int:
        """Stop them as SIGTERM does: running jobs end, everything is settled. Their exit code."""
        if self._supervisor is not None:
            self._supervisor.stop()
        self._thread.join()
        return 1 if self._code is None else self._code

    def tail(self, lines: int = 30) -> str:
        """The end of their log."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def _run(self) -> None:
        assert self._supervisor is not None
        self._code = self._supervisor.run()

    def _note(self, change: Change) -> None:
        if isinstance(change, Died):
            self.deaths.append(change)
            self.died_at_ms = time.time_ns() // 1_000_000
