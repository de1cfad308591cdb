"""Signals to worker processes: freezing them for a while, and killing them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """SIGSTOP for as long as the block runs, then SIGCONT."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def kill(*pids: int) -> None:
    """SIGKILL: no handler runs, nothing is flushed."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
