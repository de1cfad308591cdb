"""Waits with a deadline, for what no event announces.

Prefer an event, a queue or a blocking read. What only the server knows (a
count, a state that another process settles) has no event: it is asked for
until it holds, and a failure shows the last value seen.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: How long a test waits for what must happen, in seconds. Generous: only a failure takes this long.
PATIENCE_S = 20.0
#: How long a test watches for what must not happen, in seconds.
QUIET_S = 0.4


def eventually(
    read: Callable[[], T],
    holds: Callable[[T], bool],
    *,
    timeout_s: float = PATIENCE_S,
    what: str = "condition",
) -> T:
    """The first value of `read` for which `holds`.

    Raises:
      AssertionError: when none does within `timeout_s`; it shows the last value.
    """
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while True:
        value = read()
        if holds(value):
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what} did not hold within {timeout_s} s, last seen: {value!r}")
        pause.wait(0.02)


def wait_for(event: threading.Event, what: str, *, timeout_s: float = PATIENCE_S) -> None:
    """Wait for the event, or fail and say which one never came."""
    assert event.wait(timeout_s), f"{what} did not happen within {timeout_s} s"
