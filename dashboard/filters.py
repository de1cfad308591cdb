"""How values are shown."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Final

from broker.moment import utc

#: In place of what is not known.
NOTHING: Final = "\N{EN DASH}"
_LATE_MS: Final = 60_000
_SPANS: Final = (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000))


def isoformat(unix_ms: int) -> str:
    """For the attribute of a <time>; empty for a number that is no time."""
    moment = utc(unix_ms)
    return "" if moment is None else moment.isoformat(timespec="milliseconds")


def at(unix_ms: int) -> str:
    """A time, UTC to the second; the number itself where that is no time."""
    moment = utc(unix_ms)
    return str(unix_ms) if moment is None else moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def lasting(ms: float | None) -> str:
    """A span of time with its largest unit."""
    if ms is None:
        return NOTHING
    for unit, size in _SPANS:
        if ms >= size:
            return f"{ms / size:.1f} {unit}"
    return f"{ms:.0f} ms"


def timeago(unix_ms: int) -> str:
    """How long ago, or in how long; the number itself where that is no time."""
    if utc(unix_ms) is None:
        return str(unix_ms)
    since = time.time() * 1000 - unix_ms
    if abs(since) < 1_000:
        return "now"
    return f"{_rounded(since)} ago" if since >= 0 else f"in {_rounded(-since)}"


def _rounded(ms: float) -> str:
    """Of seconds and minutes no parts."""
    for unit, size in _SPANS[2:]:
        if size <= ms < size * 60:
            return f"{ms / size:.0f} {unit}"
    return lasting(ms)


def overdue(unix_ms: int | None) -> bool:
    """Whether a schedule's time is over by more than schedulers need: none runs."""
    return unix_ms is not None and unix_ms < time.time() * 1000 - _LATE_MS


def number(value: float) -> str:
    """With spaces between thousands."""
    return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def size(count: float) -> str:
    """Bytes, with their largest unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def pretty(value: Any) -> str:
    """JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


FILTERS: Final[Mapping[str, Any]] = {
    "isoformat": isoformat,
    "timeago": timeago,
    "at": at,
    "overdue": overdue,
    "lasting": lasting,
    "number": number,
    "size": size,
    "pretty": pretty,
}
