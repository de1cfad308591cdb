"""Delivers the letters of outboxes: what a flow's progress asks for in other slots, or later."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from dramatiq.errors import BrokerConnectionError

from broker.flow_commands import FlowCommands
from broker.outbox import Letter, Place
from broker.own_thread import OwnThread

#: Older letters are anybody's: whoever wrote one has died, or could not deliver it. Far below
#: the minute for which a message that has ended is remembered, so none is sent twice.
ABANDONED_AFTER_MS = 5_000
_SWEPT_PER_CALL = 200
_DUE_PER_CALL = 100
_PAUSE_AFTER_FAILURE_S = 0.5


def deliver(commands: FlowCommands, queue: str, letters: Iterable[Letter]) -> None:
    """Do what letters of one outbox ask for, and what that leads to; then drop them.

    Whatever dies on the way, they stay; delivering one twice changes nothing.
    Raises Dramatiq's connection errors.
    """
    waiting = deque([(queue, list(letters))])
    while waiting:
        queue, batch = waiting.popleft()
        if not batch:
            continue
        for letter in batch:
            waiting += _deliver(commands, queue, letter)
        commands.forget(queue, batch)


def _deliver(
    commands: FlowCommands, queue: str, letter: Letter
) -> Iterable[tuple[str, list[Letter]]]:
    if letter.kind == "send":
        commands.receive(letter.to or queue, letter.body)
    elif letter.kind == "end":
        place = Place.parse(commands.namespace, letter.to)
        yield place.home, commands.advance(place, letter.body)
    elif letter.kind == "bury":
        commands.move_letter(queue, letter.to, letter.body)
    else:
        left = 1
        while left:
            left, letters = commands.release(queue, letter.to, int(letter.body))
            yield queue, letters


class Courier(OwnThread):
    """One a worker process. Its own letters go at once, abandoned ones when it sweeps.

    ``timed_out`` is told of flows whose time is over: home queue and id.
    """

    def __init__(self, commands: FlowCommands, timed_out: Callable[[str, str], object]) -> None:
        super().__init__("courier")
        self._commands = commands
        self._timed_out = timed_out
        self._changed = threading.Condition()
        self._inbox: deque[tuple[str, list[Letter]]] = deque()
        #: Queue -> when to sweep it next, by the monotonic clock.
        self._sweeps: dict[str, float] = {}

    def put(self, queue: str, letters: list[Letter]) -> None:
        """Take over letters that this process wrote; returns at once."""
        if letters:
            with self._changed:
                self._inbox.append((queue, letters))
                self._changed.notify()

    def sweep(self, queue: str, in_s: float = 0.0) -> None:
        """Look for abandoned letters and flows out of time, at the latest in so many seconds."""
        due = time.monotonic() + in_s
        with self._changed:
            if due < self._sweeps.get(queue, float("inf")):
                self._sweeps[queue] = due
                self._changed.notify()

    def stop(self, timeout: float) -> None:
        """Deliver what is there for up to ``timeout`` seconds; others find the rest."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._inbox and not self._stopping and self._next_sweep() > 0:
                    wait = self._next_sweep()
                    self._changed.wait(None if wait == float("inf") else wait)
                if self._stopping and not self._inbox:
                    return
                parcels = [self._inbox.popleft() for _ in range(len(self._inbox))]
                now = time.monotonic()
                due = [queue for queue, at in self._sweeps.items() if at <= now]
                for queue in due:
                    del self._sweeps[queue]
            for queue, letters in parcels:
                self._guarded(self._deliver, queue, letters)
            for queue in due:
                self._guarded(self._look, queue)

    def _next_sweep(self) -> float:
        return min(self._sweeps.values(), default=float("inf")) - time.monotonic()

    def _guarded(self, step: Callable[..., None], queue: str, *args: Any) -> bool:
        """Do it, or have it done again after a pause; False if nothing else can be done now."""
        try:
            step(queue, *args)
        except BrokerConnectionError as error:
            self._logger.warning("Letters of queue %r wait for the server: %s", queue, error)
            self.sweep(queue, _PAUSE_AFTER_FAILURE_S)
            return False
        except Exception:
            self._logger.exception("Letters of queue %r could not be delivered.", queue)
            self.sweep(queue, ABANDONED_AFTER_MS / 1000)
        return True

    def _deliver(self, queue: str, letters: list[Letter]) -> None:
        deliver(self._commands, queue, letters)

    def _look(self, queue: str) -> None:
        now_ms, letters = self._commands.letters(queue, _SWEPT_PER_CALL)
        abandoned = [each for each in letters if each.written_at_ms <= now_ms - ABANDONED_AFTER_MS]
        for letter in abandoned:  # one after the other: a broken one must not hold up the rest
            if not self._guarded(self._deliver, queue, [letter]):
                return
        if len(abandoned) == _SWEPT_PER_CALL and self._commands.letters(queue, 1)[1] != letters[:1]:
            self.sweep(queue)
        elif len(letters) > len(abandoned):
            self.sweep(queue, ABANDONED_AFTER_MS / 1000)
        for flow_id, due_ms in self._commands.deadlines(queue, _DUE_PER_CALL):
            if due_ms > now_ms:
                self.sweep(queue, (due_ms - now_ms) / 1000)
                break
            self._timed_out(queue, flow_id)
