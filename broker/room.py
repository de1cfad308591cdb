"""Waiting for room in a queue that is as long as it may be."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from broker.errors import QueueFull

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5  # seconds


class Hooks(threading.local):
    """How many signals deep this thread is in hooks of middleware.

    What a hook sends, as the next step of a pipeline, finds room always: its error would be
    swallowed, and the message with it.
    """

    running = 0


def with_room(write: Callable[[], T], block_ms: int) -> T:
    """What ``write`` returns, tried again for ``block_ms`` milliseconds while the queue is full.

    The pauses grow, since nobody tells a producer that there is room: a signal to each of the many
    that may wait would cost every settlement.

    Raises:
      QueueFull: of the last try.
    """
    deadline, pause = time.monotonic() + block_ms / 1000, _FIRST_PAUSE
    while True:
        try:
            return write()
        except QueueFull:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
        # Not in step with the others that wait.
        time.sleep(min(left, pause * random.uniform(0.5, 1.0)))  # noqa: S311 - no secret
        pause = min(2 * pause, _LONGEST_PAUSE)
