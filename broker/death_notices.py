"""A message about each dead one, for the actor that its actor names with ``on_dead``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from dramatiq import Actor, MessageProxy
from dramatiq.logging import get_logger
from dramatiq.message import Message

from broker.codec import Codec
from broker.commands import Settlement
from broker.errors import InvalidActorOption
from broker.outcome import Bury

#: Of a notice: it lies in the queue of the dead message, and runs in its actor's own.
FORWARD: Final = "forward"


class DeathNotices:
    """Writes the notices that settlements leave behind; one a broker."""

    def __init__(self, actors: Mapping[str, Actor[Any, Any]], codec: Codec) -> None:
        self._actors = actors
        self._codec = codec
        self._logger = get_logger(__name__, type(self))

    def check(self, actor: Actor[Any, Any]) -> None:
        """Make the option a name.

        Raises:
          InvalidActorOption: it is neither an actor nor the name of one.
        """
        target = actor.options.get("on_dead")
        if isinstance(target, Actor):
            actor.options["on_dead"] = target.actor_name
        elif target is not None and (not isinstance(target, str) or not target):
            raise InvalidActorOption("on_dead", target, "must be an actor or the name of one")

    def actors(self) -> list[str]:
        """The names of those whose dead somebody is told of."""
        return [name for name, actor in self._actors.items() if actor.options.get("on_dead")]

    def with_notice(self, queue: str, settlement: Settlement, bury: Bury) -> Settlement:
        """The burial with the entry that tells of it, if somebody is to be told.

        Never raises: a burial must not fail for want of a notice.
        """
        actor = self._actors.get(bury.actor)
        target = None if actor is None else actor.options.get("on_dead")
        if not target:
            return settlement
        try:
            notice = self._codec.encode(_notice(target, queue, settlement, bury))
        except Exception:
            self._logger.exception("Nobody is told of the death of %r.", settlement.message_id)
            return settlement
        return dataclasses.replace(settlement, outcome=dataclasses.replace(bury, notice=notice))


def is_notice(message: MessageProxy) -> bool:
    """Whether it lies in the queue of a dead message and is to run in its actor's own."""
    return FORWARD in message.options


def forwarded(notice: Message[Any], queue: str) -> Message[Any]:
    """The notice as it is sent on to its actor's queue; under its own id, so that it comes once."""
    options = {name: value for name, value in notice.options.items() if name != FORWARD}
    return dataclasses.replace(notice, queue_name=queue, options=options)


def _notice(target: str, queue: str, settlement: Settlement, bury: Bury) -> Message[None]:
    told = {
        "id": settlement.message_id,
        "queue": queue,
        "actor": bury.actor,
        "reason": bury.reason,
        "error_type": bury.error_type,
    }
    lease = settlement.lease
    id = f"{settlement.message_id}:dead:{lease.level}:{lease.entry_id.decode()}"
    return Message(queue, target, (told,), {}, {FORWARD: True}, id)
