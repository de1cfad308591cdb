"""How many jobs of a queue a worker takes ahead: the shorter they are, the more."""

from __future__ import annotations

import time
from queue import Queue
from typing import Any, Final

from dramatiq.common import iter_queue

from broker.delivery import Delivery

#: As many are taken as end within so many seconds.
_AHEAD_S: Final = 0.01
_MOST: Final = 128
#: What is held beyond the prefetch for so long was taken in vain.
STALE_MS: Final = 100


class Ahead:
    """The most deliveries of one queue to hold at once, those that run included.

    Dramatiq's prefetch, and more only while jobs are so short that all of them end in a moment,
    sooner than another worker could have run them.
    """

    def __init__(self, prefetch: int, *, fixed: bool, ended: int = 0) -> None:
        self._prefetch = prefetch
        self._most = prefetch if fixed else max(prefetch, _MOST)
        self.limit = prefetch
        self._ended = ended
        self._looked = time.monotonic()

    @property
    def reaches_out(self) -> bool:
        """Whether the limit is beyond the prefetch."""
        return self.limit > self._prefetch

    def look(self, ended: int) -> None:
        """A fetch is about to be: set the limit by how many have ended since the last one."""
        now = time.monotonic()
        pace = (ended - self._ended) / max(now - self._looked, 1e-6)
        self._ended, self._looked = ended, now
        self.limit = min(self._most, max(self._prefetch, int(pace * _AHEAD_S)))

    def fall_back(self) -> None:
        """Take no more ahead than the prefetch, until the next look."""
        self.limit = self._prefetch

    def surplus(self, held: int) -> int:
        """How many of those held are beyond the prefetch."""
        return max(0, held - self._prefetch)

    def is_stale(self) -> bool:
        """Whether the last look is so long ago that it says nothing about what is held."""
        return time.monotonic() - self._looked >= STALE_MS / 1000


def withdraw(work_queue: Queue[Any], queue: str, count: int) -> list[Delivery]:
    """Take the last ``count`` deliveries of a queue out of those that wait for a thread."""
    waiting = list(iter_queue(work_queue))
    ours = [item for item in waiting if item.message.queue_name == queue]
    withdrawn = ours[max(0, len(ours) - count) :]
    leaving = set(map(id, withdrawn))
    for item in waiting:  # first ones first: a thread may be waiting for what comes
        if id(item) not in leaving:
            work_queue.put(item)
        work_queue.task_done()
    return [item.message for item in withdrawn]
