"""Points in time, as they are shown."""

from __future__ import annotations

from datetime import UTC, datetime


def utc(unix_ms: int) -> datetime | None:
    """The point in time; None for a number that is none before the year 10000.

    A message from another language may have any: such as one in µs.
    """
    try:
        return datetime.fromtimestamp(unix_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
