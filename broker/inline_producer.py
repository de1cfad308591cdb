"""What is sent where jobs run inline: it never leaves the process."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from dramatiq.message import Message

from broker.clock import MovableClock
from broker.entry import Fields
from broker.errors import NotInline
from broker.new_message import NewMessage
from broker.options import Options
from broker.producer import Producer
from broker.queue_rules import QueueRules
from broker.room import Hooks

if TYPE_CHECKING:
    from broker.broker import StreamsBroker


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that is to run, by the clock of the broker."""

    queue: str
    message_id: str
    level: int
    due_ms: int
    fields: Fields = field(repr=False)


class Dispatcher(Protocol):
    """Decides when what is sent runs."""

    def put(self, waiting: Waiting) -> None:
        """A message is to run."""

    def sent(self) -> None:
        """Those of one send are put."""


class InlineProducer(Producer):
    """Gives what is sent to a dispatcher, but for what a deduplication key holds back."""

    def __init__(
        self,
        broker: StreamsBroker,
        options: Options,
        rules: QueueRules,
        clock: MovableClock,
        dispatcher: Dispatcher,
    ) -> None:
        super().__init__(broker, options, rules, {}, Hooks())
        self.dispatcher = dispatcher
        self._clock = clock
        self._lock = threading.Lock()
        #: Queue and key -> the message that holds it, and until when; 0: until it has ended.
        self._claims: dict[tuple[str, str], tuple[str, int]] = {}

    def send(self, messages: list[Message[Any]], delay: int | None) -> list[Message[Any]]:
        sent = super().send(messages, delay)
        self.dispatcher.sent()
        return sent

    def hand_over(self, messages: Any, write: Any) -> NoReturn:
        """
        Raises:
          NotInline: flows need a server.
        """
        raise NotInline("a flow")

    def fire(self, message: Any, enqueue: Any) -> NoReturn:
        """
        Raises:
          NotInline: schedulers need a server.
        """
        raise NotInline("a schedule")

    def release(self, waiting: Waiting) -> None:
        """The message has ended, and holds no key but one that is held for a time."""
        with self._lock:
            for key, (holder, until_ms) in list(self._claims.items()):
                if holder == waiting.message_id and not until_ms:
                    del self._claims[key]

    def _write(
        self, messages: list[Message[Any]], delay: int | None, token: str | None = None
    ) -> list[Message[Any]]:
        new = [self._new(message) for message in messages]  # raises for all before any is taken
        return [
            self._take(message, each, delay or 0)
            for message, each in zip(messages, new, strict=True)
        ]

    def _take(self, message: Message[Any], new: NewMessage, delay_ms: int) -> Message[Any]:
        queue = message.queue_name
        holder = self._claim(queue, new)
        if holder is not None:
            return message.copy(message_id=holder)
        due_ms = self._clock.now_ms() + delay_ms
        self.dispatcher.put(Waiting(queue, new.message_id, new.level, due_ms, new.fields))
        return message

    def _claim(self, queue: str, new: NewMessage) -> str | None:
        """Hold the message's deduplication key; the id of who holds it already."""
        claim = new.claim
        if claim is None:
            return None
        now_ms = self._clock.now_ms()
        until_ms = now_ms + claim.ttl_ms if claim.ttl_ms else 0
        with self._lock:
            holder = self._claims.get((queue, claim.key))
            if holder is not None and holder[0] != new.message_id and not 0 < holder[1] <= now_ms:
                return holder[0]
            self._claims[queue, claim.key] = (new.message_id, until_ms)
        return None
