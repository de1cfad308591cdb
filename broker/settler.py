"""Group commit of settlements: load makes batches, an idle worker settles at once."""

from __future__ import annotations

import threading
from collections import defaultdict, deque

from dramatiq.errors import BrokerConnectionError
from dramatiq.logging import get_logger

from broker.commands import Commands, Settlement
from broker.outcome import Settled

_BATCH = 200
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # seconds between tries while the server is away


class Settler:
    """One a process. Outcomes survive a lost connection in memory and are tried again."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._logger = get_logger(__name__, type(self))
        self._inbox: deque[tuple[str, Settlement]] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="headrace-settler", daemon=True)
        self._thread.start()

    def put(self, queue: str, settlement: Settlement) -> None:
        """Take over the end of a delivery; returns at once."""
        with self._changed:
            self._inbox.append((queue, settlement))
            self._changed.notify_all()

    def stop(self, timeout: float) -> bool:
        """Settle what is left for up to ``timeout`` seconds; False if some stay in flight."""
        with self._changed:
            empty = self._changed.wait_for(lambda: not self._inbox and not self._busy, timeout)
            self._stopping = True
            self._changed.notify_all()
        if not empty:
            self._logger.error(
                "%d settlements could not be written; their jobs will run again.", len(self._inbox)
            )
        return empty

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._inbox or self._stopping)
                if self._stopping:
                    return
                taken = list(self._inbox)
                self._inbox.clear()
                self._busy = True
            by_queue: dict[str, list[Settlement]] = defaultdict(list)
            for queue, settlement in taken:
                by_queue[queue].append(settlement)
            for queue, settlements in by_queue.items():
                for start in range(0, len(settlements), _BATCH):
                    self._settle(queue, settlements[start : start + _BATCH])
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _settle(self, queue: str, batch: list[Settlement]) -> None:
        pause, repeated = _FIRST_PAUSE, False
        while not self._stopping:
            try:
                replies = self._commands.settle(queue, batch)
            except BrokerConnectionError as error:
                self._logger.warning(
                    "Settling %d deliveries of %r failed, trying again: %s",
                    len(batch),
                    queue,
                    error,
                )
                repeated = True
                self._pause(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            except Exception:
                self._logger.exception(
                    "Settling %d deliveries of %r failed; they will be delivered again.",
                    len(batch),
                    queue,
                )
                return
            else:
                self._report(queue, batch, replies, repeated)
                return

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, seconds)

    def _report(
        self, queue: str, batch: list[Settlement], replies: list[Settled], repeated: bool
    ) -> None:
        for settlement, reply in zip(batch, replies, strict=True):
            # After a lost reply the entry is gone because the first try settled it.
            if reply is Settled.OK or repeated:
                continue
            self._logger.warning(
                "Lost the lease of message %r on queue %r: its settlement was fenced off (%s).",
                settlement.message_id,
                queue,
                reply.name.lower(),
            )
