"""Run events of the past again: a range of a stream becomes messages once more."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from dramatiq.actor import Actor
from dramatiq.message import Message

from broker import StreamsBroker
from broker.errors import InvalidOption
from broker.event_source import Aside, Event
from broker.intake_commands import IntakeCommands
from broker.new_message import NewMessage
from middleware.events import OPTION, Subscription, Undecodable, event_id_of

_BATCH: Final = 500
_FULL_PAUSE_S: Final = 0.2
#: Nobody else is given the events of a replay: any time is early enough.
_NEVER_MS: Final = 2**52


def replay(
    actor: Actor[..., Any],
    stream: str,
    *,
    name: str,
    group: str = "headrace",
    start: str | int | datetime = "0",
    end: str | int | datetime | None = None,
) -> int:
    """Make messages of the events from ``start`` to ``end``, both included, for one actor.

    The actor's subscription says how, its filter and its bound included. Interrupted, it goes
    on where it was when it is called again by the same ``name``: a message is made once for
    each event and name. Events that can't become messages are set aside. The group's own
    reading, and the stream, stay as they are.

    Returns:
      how many messages this call made.

    Raises:
      InvalidOption: names the parameter, its value and the rule.
      QueueClosed, BrokerConnectionError: call it again; it goes on behind what it made.
    """
    broker = actor.broker
    if not isinstance(broker, StreamsBroker):
        raise InvalidOption("actor", actor.actor_name, "must be on a StreamsBroker")
    if not name or "\n" in name:
        raise InvalidOption("name", name, "must be a non-empty string of one line")
    subscription = _subscription(actor, stream, group)
    commands = IntakeCommands(broker.client, broker.namespace, broker.commands.keys)
    return _Replay(broker, commands, actor, subscription, name).run(start, end)


def _subscription(actor: Actor[..., Any], stream: str, group: str) -> Subscription:
    for found in actor.options.get(OPTION, ()):
        if (found.source.stream, found.source.group) == (stream, group):
            return found  # type: ignore[no-any-return]
    rule = f"must be one that {actor.actor_name!r} reads in group {group!r}"
    raise InvalidOption("stream", stream, rule)


class _Replay:
    def __init__(
        self,
        broker: StreamsBroker,
        commands: IntakeCommands,
        actor: Actor[..., Any],
        subscription: Subscription,
        name: str,
    ) -> None:
        self._broker = broker
        self._commands = commands
        self._actor = actor
        self._subscription = subscription
        self._name = name
        self._key = f"{subscription.source}:{actor.actor_name}:{name}"

    def run(self, start: str | int | datetime, end: str | int | datetime | None) -> int:
        made = 0
        for events in self._events(event_id_of(start), "+" if end is None else event_id_of(end)):
            messages = [m for m in map(self._message, events) if m is not None]
            names = [event.id for event in events]
            if messages:
                made += self._enqueue(messages)
            self._commands.keep_replayed(self._key, names[-1])
            self._commands.forget(self._actor.queue_name, self._key, names)
        return made

    def _events(self, start: str, end: str) -> Iterator[list[Event]]:
        done = self._commands.replayed_to(self._key)
        begin = start if done is None else f"({done}"
        stream = self._subscription.source.stream
        while events := self._commands.range(stream, begin, end, _BATCH):
            yield events
            begin = f"({events[-1].id}"

    def _message(self, event: Event) -> Message[Any] | None:
        try:
            return self._subscription.message(self._actor, event, self._name)
        except Undecodable as error:
            source, actor = self._subscription.source, self._actor.actor_name
            self._commands.set_aside(
                [Aside(source, event.id, actor, str(error), event.fields or {})]
            )
            return None

    def _enqueue(self, messages: list[Message[Any]]) -> int:
        queue = self._actor.queue_name
        while self._broker.inspector.size(queue) >= self._subscription.most_waiting:
            time.sleep(_FULL_PAUSE_S)

        def write(new: list[NewMessage]) -> None:
            named = [(m.options["event_id"], n) for m, n in zip(messages, new, strict=True)]
            token = secrets.token_urlsafe(6)
            self._commands.take(queue, self._key, _NEVER_MS, token, named)

        self._broker.producer.hand_over(messages, write)
        return len(messages)
