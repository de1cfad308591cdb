"""A clock that a test may move, and how far ahead of it anything is put off."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Final

#: A hundred years: what is due after the year 9999 nobody can show.
LONGEST_DELAY_MS: Final = 100 * 365 * 86_400_000


class MovableClock:
    """The wall clock and what it was moved by."""

    def __init__(self) -> None:
        self._moved_ms = 0

    def now_ms(self) -> int:
        """Unix ms."""
        return time.time_ns() // 1_000_000 + self._moved_ms

    def advance(self, by: int | timedelta) -> None:
        """Move it on, by ms or a timedelta; never back."""
        ms = round(by / timedelta(milliseconds=1)) if isinstance(by, timedelta) else by
        if ms < 0:
            raise ValueError(f"by: must be at least 0, got {by!r}")
        self._moved_ms += ms
