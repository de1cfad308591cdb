"""Sends messages: through the middleware, encoded, into their queues or wherever a flow wants."""

from __future__ import annotations

import dataclasses
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import redis
from dramatiq.common import current_millis
from dramatiq.encoder import JSONEncoder
from dramatiq.errors import BrokerConnectionError
from dramatiq.message import Message, get_encoder

from broker import current, entry
from broker.checks import check_int, check_json, check_text, check_unicode
from broker.clock import LONGEST_DELAY_MS
from broker.dead_routing import forwarded
from broker.delivery import Delivery
from broker.errors import InvalidOption, MessageTooLarge
from broker.in_flight import InFlight
from broker.new_message import NewMessage
from broker.options import Options
from broker.queue_rules import QueueRules
from broker.room import Hooks, with_room
from broker.schedule import Fired

if TYPE_CHECKING:
    from broker.broker import StreamsBroker

_BATCH = 200
# And about so many bytes in one script: a slow line carries them before the client gives it up.
_BATCH_BYTES = 256 * 1024


class Batch(list[Message[Any]]):
    """Messages of one queue, of a call that sends several; one alone may be the last of them."""


class Producer:
    """Sends the messages of a broker, whose :meth:`StreamsBroker.enqueue` says what it raises.

    ``in_flight`` is what this process holds of each queue that it works on.
    """

    def __init__(
        self,
        broker: StreamsBroker,
        options: Options,
        rules: QueueRules,
        in_flight: Mapping[str, InFlight],
        hooks: Hooks,
    ) -> None:
        self._broker = broker
        # Not the worker's, which come when it boots and repeat nothing.
        self._commands = broker.commands
        self._options = options
        self._rules = rules
        self._in_flight = in_flight
        self._hooks = hooks
        self._registered: set[str] = set()

    def send(self, messages: list[Message[Any]], delay: int | None) -> list[Message[Any]]:
        """Enqueue messages of one queue, ``delay`` ms from now if given."""
        if delay is not None:
            delay = whole_ms(delay)
            eta = current_millis() + delay
            messages = type(messages)(m.copy(options={"eta": eta}) for m in messages)
        elif any("eta" in message.options for message in messages):
            return self._send_each_in_time(messages)
        return self._emitting(messages, delay, lambda: self._write(messages, delay))

    def _send_each_in_time(self, messages: list[Message[Any]]) -> list[Message[Any]]:
        """As ``send``; the option ``eta``, unix ms, says of each when it is to run."""
        sent = []
        for message in messages:
            eta = message.options.get("eta")
            early_ms = eta - current_millis() if isinstance(eta, int | float) else 0
            if early_ms > 0:
                sent += self.send([message], math.ceil(min(early_ms, LONGEST_DELAY_MS)))
            else:
                kept = {name: each for name, each in message.options.items() if name != "eta"}
                sent += self.send([dataclasses.replace(message, options=kept)], None)
        return sent

    def send_all(self, messages: Iterable[Message[Any]], delay: int | None) -> list[Message[Any]]:
        """Enqueue messages of any queues, a batch of one queue at a time."""
        by_queue: dict[str, list[tuple[int, Message[Any]]]] = defaultdict(list)
        for index, message in enumerate(messages):
            by_queue[message.queue_name].append((index, message))
        several = sum(map(len, by_queue.values())) > 1
        sent: dict[int, Message[Any]] = {}
        for rows in by_queue.values():
            for start in range(0, len(rows), _BATCH):
                batch = rows[start : start + _BATCH]
                given = [message for _, message in batch]
                done = self.send(Batch(given) if several else given, delay)
                sent.update(zip((index for index, _ in batch), done, strict=True))
        return [sent[index] for index in sorted(sent)]

    def hand_over(
        self, messages: list[Message[Any]], write: Callable[[list[NewMessage]], None]
    ) -> None:
        """Let ``write`` put messages somewhere else than into their queues; a flow does.

        Middleware sees them as it sees those that are enqueued.
        """

        def written() -> list[Message[Any]]:
            for queue in {message.queue_name for message in messages} - self._registered:
                self._register(queue)
            write([self._new(message) for message in messages])
            return messages

        self._emitting(messages, None, written)

    def fire(self, message: Message[Any], enqueue: Callable[[str, NewMessage], Fired]) -> Fired:
        """Enqueue the message of a schedule's fire by a command that makes each fire once."""
        made: list[Fired] = []

        def written() -> list[Message[Any]]:
            made.append(enqueue(_token(), self._new(message)))
            return [message] if made[0] is Fired.FIRED else []

        self._emitting([message], None, written)
        return made[0]

    def forward(self, notice: Message[Any], queue: str) -> None:
        """Send a notice of a death on to its actor's own queue; done again, it changes nothing."""
        message = forwarded(notice, queue)
        # Its id is the token as well: a second carrier's is known, also when it has run.
        self._emitting([message], None, lambda: self._write([message], None, message.message_id))

    @property
    def inner(self) -> bool:
        """Whether a job sends what is sent here: a closed queue takes that."""
        return self._hooks.running > 0 or current.running()

    def check(self, message: Message[Any]) -> None:
        """Raise what sending the message would raise for itself; nothing is sent."""
        self._new(message)

    def encode(self, message: Message[Any], *, added: int = 0) -> entry.Fields:
        """The fields of the message's entry, which may be ``added`` bytes over the limit.

        Raises:
          MessageTooLarge: they are larger.
        """
        if "eta" in message.options:
            options = {name: value for name, value in message.options.items() if name != "eta"}
            message = dataclasses.replace(message, options=options)
        fields = self._broker.codec.encode(message)
        if (size := entry.size(fields)) > (limit := self._broker.max_message_bytes) + added:
            raise MessageTooLarge(message.actor_name, size, limit)
        return fields

    def _emitting(
        self,
        messages: list[Message[Any]],
        delay: int | None,
        write: Callable[[], list[Message[Any]]],
    ) -> list[Message[Any]]:
        emit_before, emit_after = self._broker.emit_before, self._broker.emit_after
        for message in messages:
            emit_before("enqueue", message, delay)
        emit_before("send", messages, delay)
        try:
            sent = write()
        except BaseException as error:  # Dramatiq's interrupts too: whoever began must end
            emit_after("send", messages, delay, exception=error)
            raise
        self._note_successors(messages)
        emit_after("send", messages, delay, sent=sent)
        for message in sent:
            emit_after("enqueue", message, delay)
        return sent

    def _note_successors(self, messages: list[Message[Any]]) -> None:
        """What this process runs may end: its successor is written."""
        for message in messages:
            held = self._held(message)
            if held is not None:
                held.requeued = True

    def _held(self, message: Message[Any]) -> Delivery | None:
        """The delivery of this message's id that this process runs, if it does."""
        here = self._in_flight.get(message.queue_name)
        return None if here is None else here.holds(message.message_id)

    def _write(
        self, messages: list[Message[Any]], delay: int | None, token: str | None = None
    ) -> list[Message[Any]]:
        queue = messages[0].queue_name
        if queue not in self._registered:
            self._register(queue)
        new = [self._new(message) for message in messages]
        # What is moved on under a token of its own is no producer's.
        free = token is not None or self._hooks.running
        bound = None if free else self._rules.depth(queue)
        max_depth = 0 if bound is None else bound.max_depth
        if token is None:
            token = _token()
        if delay or any(m.claim is not None and m.claim.replaces for m in new):
            put = partial(self._commands.schedule, queue, token, delay or 0)
        else:
            put = partial(self._commands.enqueue, queue, token)
        put = partial(put, max_depth=max_depth, inner=free or self.inner)
        known: list[str] = []
        for part in _parts(new):
            write = partial(put, part)
            known += write() if bound is None else with_room(write, bound.block_ms)
        return [
            m if m.message_id == id else dataclasses.replace(m, message_id=id)
            for m, id in zip(messages, known, strict=True)
        ]

    def _register(self, queue: str) -> None:
        try:
            self._commands.register(queue)
        except BrokerConnectionError as error:
            if not isinstance(self._commands.client, redis.RedisCluster):
                raise
            # The names are on another node than the queue; its workers note it again.
            self._broker.logger.warning(
                *("Queue %r could not be noted, sending anyway: %s", queue, error),
                extra={"queueName": queue},
            )
        self._registered.add(queue)

    def _new(self, message: Message[Any]) -> NewMessage:
        _check(message)
        return NewMessage(
            message.message_id,
            message.actor_name,
            self._options.level(message),
            self._options.claim(message),
            self._held(message) is not None,
            self._options.recorded(message),
            self.encode(message),
        )


def _check(message: Message[Any]) -> None:
    """Refuse what can be written here and not be read again by a worker."""
    check_unicode("message_id", check_text("message_id", message.message_id))
    if type(message.message_timestamp) is not int:
        rule = "must be an integer, unix ms"
        raise InvalidOption("message_timestamp", message.message_timestamp, rule)
    if message.options and type(get_encoder()) is JSONEncoder:
        check_json(message.options)


def whole_ms(delay: float) -> int:
    """A delay as RedisBroker takes it: a part of a millisecond is dropped, what is past is now.

    Raises:
      InvalidOption: it is no number, or a century and more.
    """
    whole = int(delay) if type(delay) is float and math.isfinite(delay) else delay
    return max(0, check_int("delay", whole, -LONGEST_DELAY_MS, LONGEST_DELAY_MS))


def _token() -> str:
    """Tells one attempt to send a message from another; a longer one costs 20 bytes a job."""
    return os.urandom(4).hex()


def _parts(new: list[NewMessage]) -> Iterator[list[NewMessage]]:
    """What goes into one script each: all of them, unless they are large."""
    begin, size = 0, 0
    for end, message in enumerate(new):
        added = sum(map(len, message.fields))
        if end > begin and size + added > _BATCH_BYTES:
            yield new[begin:end]
            begin, size = end, 0
        size += added
    yield new[begin:]
