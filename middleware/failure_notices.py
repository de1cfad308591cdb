"""Tells people of dead letters and queue errors: at once, and then once an interval with counts.

The counts lie in Redis, where the scripts that bury and the turn to send a notice are shared
by all processes: 10,000 failures are one notice, and a process that dies loses none of them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from dramatiq import Broker, Worker
from dramatiq.errors import BrokerConnectionError
from dramatiq.logging import get_logger
from dramatiq.middleware import Middleware

from broker import StreamsBroker
from broker.failures import FailureKind
from broker.outcome import Bury
from broker.settlement import Settlement
from middleware.notice import Notice
from middleware.notice_channels import Channel
from middleware.queue_errors import QueueErrorCounts, QueueErrors

#: Burials that this process did not see (a vanished worker's, say) wait for a look.
LOOK_EVERY_S = 20.0
#: Failures seldom come alone: those of this time go with the first one.
_GATHER_S = 0.5
_AFTER_FAILED_SEND_S = 30.0
#: Without the server a process waits so long before it speaks for itself alone.
ALONE_AFTER_S = 30.0
#: The longest that the channels may take together before another process sends, too.
_TURN_S = 180.0
_LETTERS_PER_CALL = 100


class FailureNotices(Middleware):
    """Runs one :class:`Notifier` in each worker process."""

    def __init__(self, channels: Sequence[Channel], *, interval_ms: int) -> None:
        self._channels = channels
        self._interval_ms = interval_ms
        self._notifier: Notifier | None = None

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        if not isinstance(broker, StreamsBroker):
            raise TypeError(f"notices need a StreamsBroker, not a {type(broker).__name__}")
        self._notifier = Notifier(broker, self._channels, interval_ms=self._interval_ms)
        self._notifier.start()

    def after_settle(
        self, broker: StreamsBroker, queue: str, settlements: Sequence[Settlement], *_: Any
    ) -> None:
        if self._notifier is not None and any(isinstance(s.outcome, Bury) for s in settlements):
            self._notifier.look_soon()

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        if self._notifier is not None:
            self._notifier.stop()
            self._notifier = None


class Notifier:
    """Looks for failures nobody was told of, and tells when it has the turn to."""

    def __init__(
        self, broker: StreamsBroker, channels: Sequence[Channel], *, interval_ms: int
    ) -> None:
        self._broker = broker
        self._channels = channels
        self._interval_ms = interval_ms
        self.errors = QueueErrors()
        self._logger = get_logger(__name__, type(self))
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="headrace-notifier", daemon=True)
        self._reached_at = time.monotonic()
        self._alone_at = 0.0
        #: It is too early for another notice, whatever fails in between.
        self._throttled = False

    def start(self) -> None:
        logging.getLogger().addHandler(self.errors)
        self._thread.start()

    def look_soon(self) -> None:
        """Something has failed."""
        self._wake.set()

    def stop(self) -> None:
        """End, and leave what was counted to others."""
        logging.getLogger().removeHandler(self.errors)
        self._stopping.set()
        self._wake.set()
        self._thread.join(_GATHER_S * 4)
        try:
            self._hand_over_errors()
        except BrokerConnectionError as error:
            self._logger.warning("Errors that were counted here are not reported: %s", error)

    def _run(self) -> None:
        pause = 0.0
        while not self._stopping.is_set():
            if self._throttled:
                self._stopping.wait(pause)
            elif self._wake.wait(pause):
                self._stopping.wait(_GATHER_S)
            self._wake.clear()
            if self._stopping.is_set():
                return
            try:
                pause = self.look()
                self._reached_at = time.monotonic()
            except BrokerConnectionError:
                pause = _GATHER_S * 10
                self._speak_alone()
            except Exception:
                self._logger.exception("Looking for failures failed, trying again.")
                pause = LOOK_EVERY_S

    def look(self) -> float:
        """Count what is new and send a notice if it is time; returns seconds until the next look.

        Raises Dramatiq's connection errors; nothing that was counted is lost.
        """
        self._hand_over_errors()
        commands = self._broker.commands
        queues = ["", *self._broker.inspector.queues()]
        for queue in queues:
            while commands.tally(queue, _LETTERS_PER_CALL) and not self._stopping.is_set():
                pass
        counts = {queue: tallied for queue in queues if (tallied := commands.tallied(queue))}
        self._throttled = False
        if not counts:
            return LOOK_EVERY_S
        pause_ms = self._take_turn(list(counts))
        self._throttled = pause_ms > 0
        return min(pause_ms / 1000, LOOK_EVERY_S)

    def _take_turn(self, queues: Sequence[str]) -> int:
        """Send a notice if it is this process's turn; returns ms until the next one may go."""
        commands, holder = self._broker.commands, self._broker.consumer_name
        turn_ms = int(_TURN_S * 1000)
        wait_ms = commands.take_turn(holder, turn_ms, max(self._interval_ms, turn_ms))
        if wait_ms:
            return wait_ms
        # Read in the turn: another process may have told of them in the meantime.
        counts = {queue: commands.tallied(queue) for queue in queues}
        if not any(counts.values()):
            pause_ms, told = 0, False
        else:
            told = self._send(Notice.of(self._broker.namespace, counts))
            pause_ms = self._interval_ms if told else int(_AFTER_FAILED_SEND_S * 1000)
        # Who has lost the turn leaves the counts to whoever has it: it has told of them, too.
        if commands.end_turn(holder, pause_ms) and told:
            for queue, kinds in counts.items():
                commands.count_failures(queue, {kind: -count for kind, count in kinds.items()})
        return pause_ms

    def _send(self, notice: Notice) -> bool:
        """Whether any of the channels took it."""
        sent = [self._sent(channel, notice) for channel in self._channels]
        return any(sent)

    def _sent(self, channel: Channel, notice: Notice) -> bool:
        try:
            channel.send(self._broker, notice)
        except Exception as error:
            # Its text may have the webhook's URL, which is a secret.
            self._logger.error(
                "A notice of %d failures could not be sent by %s: %s",
                notice.total,
                channel.name,
                type(error).__name__,
            )
            return False
        return True

    def _hand_over_errors(self) -> None:
        taken = self.errors.take()
        try:
            for queue, kinds in _by_queue(taken).items():
                self._broker.commands.count_failures(queue, kinds)
                for kind in kinds:
                    del taken[queue, kind]
        finally:
            self.errors.put_back(taken)

    def _speak_alone(self) -> None:
        """Tell of this process's errors while the server, which holds the turns, is away."""
        now = time.monotonic()
        if now - self._reached_at < ALONE_AFTER_S or now < self._alone_at:
            return
        taken = self.errors.take()
        if taken and self._send(Notice.of(self._broker.namespace, _by_queue(taken))):
            self._alone_at = now + self._interval_ms / 1000
        else:
            self.errors.put_back(taken)


def _by_queue(counts: QueueErrorCounts) -> dict[str, Counter[FailureKind]]:
    found: dict[str, Counter[FailureKind]] = defaultdict(Counter)
    for (queue, kind), count in counts.items():
        found[queue][kind] += count
    return found
