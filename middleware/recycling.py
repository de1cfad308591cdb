"""Replaces a worker process after so many jobs or above so much memory, once it has drained."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from dramatiq import Broker, Worker
from dramatiq.broker import MessageProxy
from dramatiq.logging import get_logger
from dramatiq.middleware import Middleware

from broker import StreamsBroker
from broker.process_settings import RecyclingSettings
from middleware.nursery import Place, take_place

_MEASURED_EVERY_S = 1.0
_STATM: Final = Path("/proc/self/statm")


class Recycling(Middleware):
    """Counts jobs and bytes; at a limit the process drains and makes way for a new one.

    Guarantee: no job is interrupted or handed back. One process of a host drains at a time.
    It works in the processes of Dramatiq's command line, and has to be the last in the list:
    it forks before any other middleware has begun anything.
    """

    def __init__(self, settings: RecyclingSettings) -> None:
        self._max_jobs = settings.max_jobs
        self._max_memory = settings.max_memory
        self._place: Place | None = None
        self._jobs = 0
        self._measured_at = 0.0
        self._lock = threading.Lock()
        self._logger = get_logger(__name__, type(self))

    def after_process_boot(self, broker: Broker) -> None:
        if multiprocessing.parent_process() is not None:  # Dramatiq's command line has made it
            self._place = take_place()

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        held = memory()
        if self._max_memory is not None and held >= self._max_memory:
            self._logger.error(
                "recycling.max_memory is ignored: it is %d bytes, and a new worker holds %d.",
                self._max_memory,
                held,
            )
            self._max_memory = None

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        with self._lock:
            self._jobs += 1
            place, why = self._place, self._reached()
            if place is None or why is None:
                return
            self._place = None  # once
        threading.Thread(
            target=self._make_way,
            args=(broker, place, why),
            name="headrace-recycling",
            daemon=True,
        ).start()

    def _reached(self) -> str | None:
        if self._max_jobs is not None and self._jobs >= self._max_jobs:
            return f"{self._jobs} jobs"
        now = time.monotonic()
        if self._max_memory is None or now - self._measured_at < _MEASURED_EVERY_S:
            return None
        self._measured_at = now
        held = memory()
        return f"{held} bytes of memory" if held > self._max_memory else None

    def _make_way(self, broker: StreamsBroker, place: Place, why: str) -> None:
        _take_turn()
        self._logger.info("Draining this worker process to replace it: it has reached %s.", why)
        broker.worker.drain()
        place.make_way()


def memory() -> int:
    """Bytes that this process holds (resident set); where that is unknown, the most it ever did."""
    try:
        return int(_STATM.read_bytes().split()[1]) * resource.getpagesize()
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def _take_turn() -> None:
    """Wait until no other worker process of this host drains; the kernel ends the turn with us."""
    # Never closed. Any file will do that all of them have.
    fcntl.flock(os.open(__file__, os.O_RDONLY), fcntl.LOCK_EX)
