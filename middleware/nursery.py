"""A worker process that can be replaced while Dramatiq's main process keeps watching one pid.

Dramatiq's main process takes the end of a worker for a disaster, and stops all the others. So
the process that it started steps back before it has run anything, and does nothing but fork the
worker, hand on signals, fork the next one when the worker makes way, and end as the worker ends.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Final, NoReturn

#: Dramatiq's main process sends the first two. By the third a worker says that it makes way.
_WATCHED: Final = frozenset({signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD})


@dataclass(frozen=True, slots=True)
class Place:
    """The worker's side: the process that it was forked from."""

    parent: int

    def make_way(self) -> None:
        """Be stopped as by a SIGTERM, and replaced. Have nothing running any more."""
        if os.getppid() == self.parent:
            os.kill(self.parent, signal.SIGUSR1)
        else:
            os.kill(os.getpid(), signal.SIGTERM)


def take_place() -> Place:
    """Go on as the forked worker; the calling process itself never returns from here.

    To be called by a process without threads, before it has connected to anything.
    """
    parent = os.getpid()
    alive, held_open = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    while True:
        worker = os.fork()
        if worker == 0:
            os.close(held_open)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            random.seed()  # or it would draw what its predecessor drew
            _stop_without_parent(alive)
            return Place(parent)
        _attend(worker)


def _attend(worker: int) -> None:
    """Return when the worker has made way; otherwise end as it ends."""
    signal.signal(signal.SIGCHLD, _ignored)  # not SIG_DFL, which may drop it unseen
    leaving = stopping = False
    while True:
        number = signal.sigwait(_WATCHED)
        if number == signal.SIGCHLD:
            ended, status = os.waitpid(worker, os.WNOHANG)
            if ended:
                break
        elif number == signal.SIGUSR1:
            if not leaving and not stopping:
                leaving = True
                os.kill(worker, signal.SIGTERM)
        else:
            # A worker takes a second signal for an order to die at once; the first may be ours.
            if stopping or not leaving:
                os.kill(worker, number)
            stopping = True
    if stopping or not leaving or status != 0:
        _end_as(status)


def _end_as(status: int) -> NoReturn:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        with suppress(OSError, ValueError):  # SIGKILL has no handler
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _stop_without_parent(alive: int) -> None:
    """Stop this worker as by a SIGTERM when its parent has gone, however it went."""

    def watch() -> None:
        os.read(alive, 1)  # nobody writes: it is the end of the file
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="headrace-orphan-watch", daemon=True).start()


def _ignored(number: int, frame: FrameType | None) -> None:
    """SIGCHLD is waited for."""
