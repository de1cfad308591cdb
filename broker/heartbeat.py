"""A file by which a process tells its own machine that it gets on."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Heartbeat:
    """Kept by the process that does the work, read by its health check (:mod:`broker.health`)."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def beat(self, lasts_ms: int) -> None:
        """Something was done; the next thing will be within so many milliseconds.

        Raises:
          OSError: the file can't be written.
        """
        until = time.time() + lasts_ms / 1000
        with self._path.open("ab") as file:
            os.utime(file.fileno(), (until, until))

    def overdue_s(self) -> float | None:
        """Seconds since the next beat should have come, negative before that; None: never one."""
        try:
            return time.time() - self._path.stat().st_mtime
        except FileNotFoundError:
            return None
