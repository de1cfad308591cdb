"""Not faster than so many a second."""

from __future__ import annotations

import time

from broker.checks import check_int

_BATCH = 200
_BATCHES_PER_SECOND = 10  # of a paced run: steady, not a burst each second


class Pace:
    """Spreads work over time; what was not used is not made up for later."""

    def __init__(self, per_second: int | None) -> None:
        """None is as fast as it goes. Raises InvalidOption for no positive integer."""
        if per_second is not None:
            check_int("per_second", per_second, 1)
        self._per_second = per_second
        self._next = time.monotonic()

    @property
    def batch(self) -> int:
        """How many to do at once."""
        if self._per_second is None:
            return _BATCH
        return max(1, min(_BATCH, self._per_second // _BATCHES_PER_SECOND))

    def wait(self, count: int) -> None:
        """Wait until ``count`` more may be done."""
        if self._per_second is None:
            return
        now = time.monotonic()
        if now < self._next:
            time.sleep(self._next - now)
        self._next = max(self._next, now) + count / self._per_second
