"""What a consumer has taken while no record was told that it has begun."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from broker.commands import Handed
from broker.delivery import Lease


class Untold:
    """Deliveries that a later fetch tells of. Those that end before are their settlements'.

    For one thread, the consumer's. ``holds`` says whether a delivery has not ended yet.
    """

    def __init__(self, holds: Callable[[Lease], bool]) -> None:
        self._holds = holds
        #: By lease: the time from which it is to be told of.
        self._rows: dict[Lease, tuple[float, Handed]] = {}

    def add(self, handed: Iterable[Handed], *, wait_s: float = 0.0) -> None:
        """Tell of these by the next fetch, or by one after a while."""
        due = time.monotonic() + wait_s
        self._rows |= {each.lease: (due, each) for each in handed}

    def any(self) -> bool:
        """Whether there is something that has not ended."""
        return any(map(self._holds, self._rows))

    def due(self, *, early: bool) -> list[Handed]:
        """What has not ended and is to be told of now; ``early``: what could wait, too."""
        now = time.monotonic()
        self._rows = {lease: row for lease, row in self._rows.items() if self._holds(lease)}
        return [handed for due, handed in self._rows.values() if early or due <= now]

    def drop(self, told: Iterable[Handed]) -> None:
        """These were told of."""
        for handed in told:
            self._rows.pop(handed.lease, None)
