"""Takes the events of one source, on a thread of a worker process."""

from __future__ import annotations

import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dramatiq.actor import Actor
from dramatiq.errors import BrokerConnectionError
from dramatiq.logging import get_logger
from dramatiq.message import Message

from broker import QueueClosed, StreamsBroker
from broker.event_source import Aside, Event, Handover, NoSource, Source, Stalled
from broker.intake_commands import IntakeCommands
from broker.new_message import NewMessage
from middleware.events import Subscription, Undecodable

#: Events read at once.
_BATCH: Final = 500
#: What a read waits for events at the most; it also bounds how late a stop is seen.
_LONGEST_BLOCK_MS: Final = 1_000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
#: How often a queue that is full is looked at.
_FULL_PAUSE_S: Final = 0.2
#: And one that is closed, which is for longer.
_CLOSED_PAUSE_S: Final = 1.0
_FORGOTTEN_PER_ROUND: Final = 500


@dataclass(frozen=True, slots=True)
class Subscriber:
    """An actor and what it wants of a source."""

    actor: Actor[..., Any]
    subscription: Subscription


class _TooLate(Exception):
    """The events may have been given to somebody else meanwhile."""


#: What is tried again as it is.
_PASSING: Final = (_TooLate, QueueClosed, NoSource, BrokerConnectionError)


class Reader:
    """Takes the events of one source. What can't be done now is tried again."""

    def __init__(
        self,
        broker: StreamsBroker,
        commands: IntakeCommands,
        source: Source,
        subscribers: Sequence[Subscriber],
    ) -> None:
        self._broker = broker
        self._commands = commands
        self._source = source
        self._subscribers = subscribers
        self._lease_ms = broker.heartbeat_timeout
        self._consumer = broker.consumer_name
        self._waiting: dict[str, int] = {}
        self._closed: str | None = None
        self._position: str | None = None
        self._known = False
        self._own = True
        self._keep_at = 0.0
        self._pause_s = _FIRST_PAUSE_S
        self._stopping = threading.Event()
        self._logger = get_logger(__name__, type(self))
        self._thread = threading.Thread(
            target=self._run, name=f"headrace-intake-{source}", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._round()
                self._pause_s = _FIRST_PAUSE_S
                self._closed = None
            except QueueClosed as error:
                self._wait_closed(error.queue)
            except _TooLate:
                self._own = True
                self._logger.warning("Events of %s were held too long, reading them again.", self)
            except NoSource as error:
                self._known = False
                self._logger.warning("The group of %s is gone, making it again: %s", self, error)
                self._rest()
            except BrokerConnectionError as error:
                # What was read may be in nobody's hands but ours.
                self._own = True
                self._logger.warning("Taking events of %s failed, trying again: %s", self, error)
                self._rest()
            except Exception:
                self._own = True
                self._logger.exception("Taking events of %s failed, trying again.", self)
                self._rest()

    def __str__(self) -> str:
        return repr(str(self._source))

    def _rest(self) -> None:
        self._stopping.wait(self._pause_s)
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)

    def _wait_closed(self, queue: str) -> None:
        # What it has is read again then, and not before: each time counts as a delivery.
        self._own = True
        self._waiting.pop(queue, None)
        if self._closed != queue:
            self._closed = queue
            self._logger.warning("Queue %r is closed, events of %s wait.", queue, self)
        self._stopping.wait(_CLOSED_PAUSE_S)

    def _round(self) -> None:
        if not self._known:
            self._begin()
        to_keep = time.monotonic() >= self._keep_at
        if to_keep:
            self._waiting.clear()  # taking over counts as a delivery, and is not for a closed queue
        if not self._has_room():
            self._stopping.wait(_FULL_PAUSE_S)
            return
        if to_keep:
            self._keep()
        self._take(self._read())

    def _begin(self) -> None:
        start = min((each.subscription.start for each in self._subscribers), key=_earliest)
        self._commands.create(self._source, start, self._position)
        self._known = True
        self._own = True

    # -- Reading --------------------------------------------------------------------------

    def _read(self) -> Handover:
        if self._own:
            found = self._commands.read_own(self._source, self._consumer, _BATCH, self._lease_ms)
            if found.events:
                return found
            self._own = False
        block_ms = max(1, min(_LONGEST_BLOCK_MS, self._lease_ms // 4))
        return self._commands.read(self._source, self._consumer, _BATCH, block_ms, self._lease_ms)

    def _has_room(self) -> bool:
        """Whether every queue is below its bound; one that was not is looked at again.

        Raises:
          QueueClosed: of one that is looked at.
        """
        for queue, most in self._bounds().items():
            if self._waiting.get(queue, most) >= most:
                info = self._broker.commands.inspect(queue)
                if info.closed:
                    raise QueueClosed(queue)
                self._waiting[queue] = info.ready + info.scheduled + info.in_flight
            if self._waiting[queue] >= most:
                return False
        return True

    def _bounds(self) -> dict[str, int]:
        bounds: dict[str, int] = {}
        for each in self._subscribers:
            queue, most = each.actor.queue_name, each.subscription.most_waiting
            depth = self._broker.rules.depth(queue)
            if depth is not None:
                most = min(most, depth.max_depth)
            bounds[queue] = min(most, bounds.get(queue, most))
        return bounds

    # -- Taking ---------------------------------------------------------------------------

    def _take(self, handover: Handover, spent: Collection[str] = ()) -> None:
        """Deal with events and acknowledge them; those that are ``spent`` are set aside."""
        if not handover.events:
            return
        messages: list[Message[Any]] = []
        asides: list[Aside] = []
        for event in handover.events:
            if event.id in spent:
                asides += self._asides(event, "max_deliveries: whoever had it did not deal with it")
            else:
                self._convert(event, messages, asides)
        asides += self._enqueue(messages, handover)
        if asides:
            self._set_aside(asides)
        self._commands.acknowledge(self._source, [event.id for event in handover.events])
        for queue, batch in _by_queue(messages).items():
            self._commands.forget(queue, str(self._source), list(map(_name, batch)))

    def _convert(self, event: Event, messages: list[Message[Any]], asides: list[Aside]) -> None:
        if event.fields is None:
            self._logger.warning("Event %s of %s was deleted before its turn.", event.id, self)
            return
        for each in self._subscribers:
            try:
                message = each.subscription.message(each.actor, event)
            except Undecodable as error:
                asides.append(self._aside(event, each.actor.actor_name, str(error)))
            else:
                if message is not None:
                    messages.append(message)

    def _asides(self, event: Event, reason: str) -> list[Aside]:
        return [self._aside(event, each.actor.actor_name, reason) for each in self._subscribers]

    def _aside(self, event: Event, actor: str, reason: str) -> Aside:
        return Aside(self._source, event.id, actor, reason, event.fields or {})

    def _enqueue(self, messages: list[Message[Any]], handover: Handover) -> list[Aside]:
        """Put messages into their queues; returns those that none takes."""
        refused: list[Aside] = []
        for queue, batch in _by_queue(messages).items():
            try:
                self._write(queue, batch, handover.deadline_ms)
            except _PASSING:
                raise
            except Exception:
                refused += self._enqueue_singly(queue, batch, handover)
        return refused

    def _enqueue_singly(
        self, queue: str, batch: list[Message[Any]], handover: Handover
    ) -> list[Aside]:
        """One of them is refused, and does not keep the others back."""
        events = {event.id: event for event in handover.events}
        refused: list[Aside] = []
        for message in batch:
            try:
                self._write(queue, [message], handover.deadline_ms)
            except _PASSING:
                raise
            except Exception as error:
                event = events[message.options["event_id"]]
                reason = f"{type(error).__name__}: {error}"
                refused.append(self._aside(event, message.actor_name, reason))
        return refused

    def _write(self, queue: str, batch: list[Message[Any]], deadline_ms: int) -> None:
        token = secrets.token_urlsafe(6)

        def write(new: list[NewMessage]) -> None:
            named = list(zip(map(_name, batch), new, strict=True))
            waiting = self._commands.take(queue, str(self._source), deadline_ms, token, named)
            if waiting is None:
                raise _TooLate
            self._waiting[queue] = waiting

        self._broker.producer.hand_over(batch, write)

    def _set_aside(self, asides: list[Aside]) -> None:
        gone = self._commands.set_aside(asides)
        for aside in asides:
            # The whole reason may quote what is in the event, which no log shows.
            kind = aside.reason.split(":", 1)[0]
            self._logger.error(
                "Event %s of %s can't become a message of %r, it is set aside: %s",
                *(aside.event_id, self, aside.actor, kind),
            )
        if gone:
            self._logger.error("The %d oldest events that were set aside are dropped.", gone)

    # -- Keeping --------------------------------------------------------------------------

    def _keep(self) -> None:
        """Take over what others dropped, and note how far the group has come."""
        self._keep_at = time.monotonic() + self._lease_ms / 3000
        stalled = self._commands.stalled(self._source, self._lease_ms, _BATCH)
        if stalled:
            self._take_over(stalled)
        self._position = self._commands.keep_position(self._source)
        for queue in self._bounds():
            age_ms = self._lease_ms * 2
            self._commands.forgotten(queue, self._source, age_ms, _FORGOTTEN_PER_ROUND)
        self._commands.reap(self._source, self._lease_ms * 2)

    def _take_over(self, stalled: list[Stalled]) -> None:
        found = self._commands.claim(self._source, self._consumer, stalled, self._lease_ms)
        self._logger.warning("Took over %d events of %s.", len(found.events), self)
        spent = {each.id for each in stalled if each.deliveries >= self._broker.max_deliveries}
        self._take(found, spent)


def _by_queue(messages: list[Message[Any]]) -> dict[str, list[Message[Any]]]:
    found: dict[str, list[Message[Any]]] = defaultdict(list)
    for message in messages:
        found[message.queue_name].append(message)
    return found


def _name(message: Message[Any]) -> str:
    return f"{message.options['event_id']} {message.actor_name}"


def _earliest(start: str) -> tuple[float, float]:
    if start == "$":
        return float("inf"), 0
    ms, _, sequence = start.partition("-")
    return float(ms), float(sequence or 0)
