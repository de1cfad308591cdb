"""`on_event`: which events of the application's streams become messages of an actor."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar
from uuid import UUID, uuid5

import msgspec
from dramatiq.actor import Actor
from dramatiq.message import Message

from broker.checks import check_int
from broker.errors import InvalidOption
from broker.event_source import Event, Source

A = TypeVar("A", bound=Actor[..., Any])

#: The root of the ids of messages that are made of events.
_EVENTS: Final = UUID("0a1c5f0e-5a0f-4f0b-9d7c-5f0a2d9b3c11")
_ID: Final = re.compile(r"\d{1,20}(-\d{1,20})?")
#: The actor option in which its subscriptions lie.
OPTION: Final = "events"


class Undecodable(Exception):
    """The event can't become a message; says why."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """An actor's interest in one stream; see :func:`on_event`."""

    source: Source
    payload: type[msgspec.Struct] | None
    json_field: str | None
    where: Callable[[Any], bool] | None
    start: str
    most_waiting: int

    def message(self, actor: Actor[..., Any], event: Event, run: str = "") -> Message[Any] | None:
        """The message of an event; None if the filter leaves it out.

        Its id is made of the stream, the event's id, group and actor, so that it is the same
        whenever the event is handed over; of ``run`` as well, which names a replay.

        Raises:
          Undecodable: the event does not fit.
        """
        try:
            payload = self._payload(event.fields or {})
            if self.where is not None and not self.where(payload):
                return None
            message = actor.message_with_options(
                args=(msgspec.to_builtins(payload),),
                event_stream=self.source.stream,
                event_id=event.id,
            )
        except Exception as error:
            raise Undecodable(f"{type(error).__name__}: {error}"[:2_000]) from error
        parts = (self.source.stream, self.source.group, event.id, actor.actor_name, run)
        return message.copy(message_id=str(uuid5(_EVENTS, "\n".join(parts))))

    def _payload(self, fields: dict[bytes, bytes]) -> Any:
        if self.json_field is not None:
            text = fields[self.json_field.encode()]
            kind: Any = Any if self.payload is None else self.payload
            return msgspec.json.decode(text, type=kind)
        flat = {name.decode(): value.decode() for name, value in fields.items()}
        return flat if self.payload is None else msgspec.convert(flat, self.payload, strict=False)


def on_event(
    *streams: str,
    group: str = "headrace",
    payload: type[msgspec.Struct] | None = None,
    json_field: str | None = None,
    where: Callable[[Any], bool] | None = None,
    start: str | int | datetime = "0",
    most_waiting: int = 10_000,
) -> Callable[[A], A]:
    """Every event of the streams becomes a message of the actor.

    The streams belong to the application: whoever appends to them owns them, and nothing here
    shortens them. The actor gets one argument, the payload.

    Args:
      streams: the keys of the streams, as they are.
      group: the consumer group. Actors of one group share its reading: each of them gets every
        event that its filter lets through.
      payload: the type of the payload, which the event's fields are read as (text becomes a
        number where one is asked for). None: the fields as a dict of texts.
      json_field: the field whose JSON is the payload, in the place of all fields.
      where: which payloads are wanted. An exception in it sets the event aside.
      start: where a new group begins: ``"0"`` with the oldest event, ``"$"`` with the next one,
        or after an event's id, unix ms, or a datetime with a time zone.
      most_waiting: the intake stops while so many messages or more wait in the actor's queue.

    Raises:
      InvalidOption: names the parameter, its value and the rule.
    """
    begin = _begin(start)
    _check(streams, group, json_field, most_waiting)

    def subscribe(actor: A) -> A:
        found: list[Subscription] = actor.options.setdefault(OPTION, [])
        for stream in streams:
            source = Source(stream, group)
            if any(each.source == source for each in found):
                rule = f"actor {actor.actor_name!r} has it already in group {group!r}"
                raise InvalidOption("streams", stream, rule)
            found.append(Subscription(source, payload, json_field, where, begin, most_waiting))
        return actor

    return subscribe


def _begin(start: str | int | datetime) -> str:
    """The id after which a group begins: a time's first event is not left out."""
    if start == "$":
        return "$"
    found = event_id_of(start)
    return found if isinstance(start, str) else f"{max(0, int(found) - 1)}-{2**64 - 1}"


def event_id_of(point: str | int | datetime) -> str:
    """An event's id, of itself, of unix ms or of a datetime with a time zone.

    Raises:
      InvalidOption: it is none of these.
    """
    if isinstance(point, datetime):
        if point.tzinfo is None:
            raise InvalidOption("start", point, "must have a time zone")
        point = int(point.timestamp() * 1000)
    if isinstance(point, int) and not isinstance(point, bool) and point >= 0:
        return str(point)
    if isinstance(point, str) and _ID.fullmatch(point):
        return point
    raise InvalidOption("start", point, "must be an event's id, unix ms or a datetime")


def _check(streams: tuple[str, ...], group: str, json_field: str | None, waiting: int) -> None:
    if not streams:
        raise InvalidOption("streams", streams, "must name one at least")
    names = (*(("streams", stream) for stream in streams), ("group", group))
    for field, name in (*names, *([] if json_field is None else [("json_field", json_field)])):
        if type(name) is not str or not name or "\n" in name:
            raise InvalidOption(field, name, "must be a non-empty string of one line")
    check_int("most_waiting", waiting, 1)
