"""How busy a worker's threads are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from threading import get_ident
from typing import Final

#: The shortest stretch that is averaged over, in seconds: two readers may collect in turns.
_SHORTEST: Final = 1.0


class Utilization:
    """The share of time that a worker's threads ran jobs, from 0 to 1. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.threads = 0
        self._running: dict[int, float] = {}
        self._busy = 0.0
        self._measured = (clock(), 0.0)
        self._last = 0.0

    def began(self) -> None:
        """The calling thread runs a job from now on."""
        self._running[get_ident()] = self._clock()  # atomic

    def ended(self) -> float | None:
        """The calling thread runs none any more; the seconds that it did, None if it ran none."""
        now = self._clock()
        with self._lock:  # so that no share sees it neither running nor done
            begin = self._running.pop(get_ident(), None)
            if begin is None:
                return None
            self._busy += now - begin
        return now - begin

    def share(self) -> float:
        """Averaged since the last call, or the one before it if that was just now."""
        with self._lock:
            now = self._clock()
            running = list(self._running.values())  # atomic
            busy = self._busy + sum(now - begin for begin in running)
            since, before = self._measured
            if self.threads and now - since >= _SHORTEST:
                self._last = min(1.0, (busy - before) / ((now - since) * self.threads))
                self._measured = (now, busy)
            return self._last if self.threads else 0.0
