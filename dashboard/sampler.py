"""Looks at the queues every few seconds, so that charts have a past."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dramatiq.errors import BrokerConnectionError
from dramatiq.logging import get_logger

from broker.broker import StreamsBroker
from broker.dead_filter import DeadFilter
from broker.errors import HeadraceError
from broker.job_record import State

INTERVAL_S: Final = 5.0
#: An hour.
KEPT: Final = 720
#: The newest ended jobs whose times are looked at.
_TIMED: Final = 50


@dataclass(frozen=True, slots=True)
class Sample:
    """One queue at one moment, and what happened since the moment before."""

    depth: int
    in_flight: int
    dead: int
    entered_per_s: float
    left_per_s: float
    died_per_min: float
    #: Of the newest jobs that were completed since: the 95th percentile; None when none was.
    wait_ms: float | None
    run_ms: float | None


class Sampler:
    """Keeps an hour of samples of every queue, in memory. Thread-safe."""

    def __init__(self, broker: StreamsBroker) -> None:
        self._broker = broker
        self._logger = get_logger(__name__, type(self))
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._samples: dict[str, deque[Sample]] = {}
        #: Queue -> when it was looked at, what had entered and left by then.
        self._last: dict[str, tuple[float, int, int]] = {}

    def start(self) -> None:
        """Begin, in a thread of its own; once is enough."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="headrace-dashboard-sampler", daemon=True
                )
                self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def of(self, queue: str) -> list[Sample]:
        """A queue's samples, oldest first."""
        with self._lock:
            return list(self._samples.get(queue, ()))

    def total(self) -> list[Sample]:
        """All queues together, from their newest samples back; of the times the longest."""
        with self._lock:
            columns = [list(samples)[::-1] for samples in self._samples.values()]
        length = max(map(len, columns), default=0)
        rows = [[c[i] for c in columns if i < len(c)] for i in range(length)]
        return [_sum(row) for row in reversed(rows)]

    def look(self) -> None:
        """Take one sample of each queue.

        Raises:
          BrokerConnectionError: the server can't be reached.
        """
        for queue in self._broker.inspector.queues():
            sample = self._sample(queue)
            with self._lock:
                self._samples.setdefault(queue, deque(maxlen=KEPT)).append(sample)

    def _sample(self, queue: str) -> Sample:
        now, info = time.monotonic(), self._broker.inspector.queue(queue)
        traffic = self._broker.inspector.traffic(queue)
        before, entered, left = self._last.get(queue, (now, traffic.entered, traffic.left))
        self._last[queue] = (now, traffic.entered, traffic.left)
        since_s = max(now - before, 0.001)
        died = self._broker.inspector.died(queue, DeadFilter(younger_than_ms=int(since_s * 1000)))
        wait_ms, run_ms = self._times(queue, since_s) if now > before else (None, None)
        return Sample(
            depth=info.ready + info.scheduled,
            in_flight=info.in_flight,
            dead=info.dead,
            # Negative when a stream was deleted and made anew.
            entered_per_s=max(0, traffic.entered - entered) / since_s,
            left_per_s=max(0, traffic.left - left) / since_s,
            died_per_min=died * 60 / since_s if now > before else 0.0,
            wait_ms=wait_ms,
            run_ms=run_ms,
        )

    def _times(self, queue: str, since_s: float) -> tuple[float | None, float | None]:
        records = self._broker.jobs.list(queue, State.COMPLETED, limit=_TIMED).records
        newest = max((record.finished_at or 0 for record in records), default=0)
        fresh = [r for r in records if (r.finished_at or 0) > newest - since_s * 1000]
        if not fresh or newest < time.time() * 1000 - 2 * since_s * 1000:
            return None, None
        return _p95([r.wait_ms for r in fresh]), _p95([r.run_ms for r in fresh])

    def _run(self) -> None:
        while True:
            try:
                self.look()
            except (BrokerConnectionError, HeadraceError) as error:
                self._logger.warning("No sample of the queues: %s", error)
            except Exception:  # the charts are not worth the dashboard
                self._logger.exception("No sample of the queues")
            if self._stopping.wait(INTERVAL_S):
                return


def _p95(times: Sequence[int | None]) -> float | None:
    known = sorted(each for each in times if each is not None)
    return float(known[int(0.95 * (len(known) - 1))]) if known else None


def _sum(row: Sequence[Sample]) -> Sample:
    def longest(times: list[float | None]) -> float | None:
        return max((each for each in times if each is not None), default=None)

    return Sample(
        depth=sum(each.depth for each in row),
        in_flight=sum(each.in_flight for each in row),
        dead=sum(each.dead for each in row),
        entered_per_s=sum(each.entered_per_s for each in row),
        left_per_s=sum(each.left_per_s for each in row),
        died_per_min=sum(each.died_per_min for each in row),
        wait_ms=longest([each.wait_ms for each in row]),
        run_ms=longest([each.run_ms for each in row]),
    )
