"""Slows down whoever guesses passwords."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

#: Failures that cost nothing; after each further one the wait doubles, up to the longest.
_FREE: Final = 5
_LONGEST_S: Final = 300.0
_FORGOTTEN_AFTER_S: Final = 3_600.0
_REMEMBERED: Final = 10_000


class Throttle:
    """Counts failures by keys, as by the name that was tried and by the client's address."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        #: Key -> failures, and when the last one was.
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait_s(self, keys: Iterable[str]) -> float:
        """Seconds until the next try is taken; 0: now."""
        now = self._clock()
        with self._lock:
            return max((self._until(key) - now for key in keys), default=0.0)

    def failed(self, keys: Iterable[str]) -> None:
        """Count a failure."""
        now = self._clock()
        with self._lock:
            for key in keys:
                count, last = self._failures.pop(key, (0, now))
                count = 0 if now - last > _FORGOTTEN_AFTER_S else count
                self._failures[key] = (count + 1, now)
            while len(self._failures) > _REMEMBERED:
                self._failures.popitem(last=False)

    def succeeded(self, keys: Iterable[str]) -> None:
        """Forget the failures of these keys."""
        with self._lock:
            for key in keys:
                self._failures.pop(key, None)

    def _until(self, key: str) -> float:
        count, last = self._failures.get(key, (0, 0.0))
        if count < _FREE:
            return last
        return last + min(_LONGEST_S, float(2 ** min(count - _FREE, 20)))
