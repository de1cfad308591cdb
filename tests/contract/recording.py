"""What an actor or a middleware saw, in order, for a test that waits on it."""

from __future__ import annotations

import queue
from typing import Any

import pytest
from dramatiq import Broker, MessageProxy
from dramatiq.middleware import Middleware

from tests.waiting import PATIENCE_S, QUIET_S


class Seen:
    """A thread-safe record that a test reads by waiting, never by sleeping."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def add(self, what: object) -> None:
        """Record one thing; called on a worker's thread."""
        self._queue.put(what)

    def next(self, timeout_s: float = PATIENCE_S) -> Any:
        """The next thing recorded, or a failed test."""
        try:
            return self._queue.get(timeout=timeout_s)
        except queue.Empty:
            pytest.fail(f"nothing was recorded within {timeout_s} s")

    def take(self, count: int) -> list[Any]:
        """The next `count` things."""
        return [self.next() for _ in range(count)]

    def nothing_more(self, watch_s: float = QUIET_S) -> bool:
        """Whether nothing else is recorded while we watch."""
        try:
            extra = self._queue.get(timeout=watch_s)
        except queue.Empty:
            return True
        pytest.fail(f"unexpected: {extra!r}")


class Signals(Middleware):
    """Records the signals of a message's life as (signal, message id)."""

    def __init__(self, *wanted: str) -> None:
        self.seen = Seen()
        self.wanted = set(wanted)

    def _note(self, signal: str, message: MessageProxy) -> None:
        if signal in self.wanted:
            self.seen.add((signal, message.message_id))

    def before_ack(self, broker: Broker, message: MessageProxy) -> None:
        self._note("before_ack", message)

    def after_ack(self, broker: Broker, message: MessageProxy) -> None:
        self._note("after_ack", message)

    def before_nack(self, broker: Broker, message: MessageProxy) -> None:
        self._note("before_nack", message)

    def after_nack(self, broker: Broker, message: MessageProxy) -> None:
        self._note("after_nack", message)

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        self._note("after_skip_message", message)
