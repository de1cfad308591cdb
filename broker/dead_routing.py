"""Where an actor's dead go, and who is told: its options ``dead_queue`` and ``on_dead``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from dramatiq import Actor, MessageProxy
from dramatiq.logging import get_logger
from dramatiq.message import Message

from broker.checks import QUEUE_NAME
from broker.codec import Codec
from broker.entry import Fields
from broker.errors import InvalidActorOption
from broker.outcome import Bury
from broker.settlement import Settlement

#: Of a notice: it lies in the queue of the dead message, and runs in its actor's own.
FORWARD: Final = "forward"


class DeadRouting:
    """Completes burials as the actors' options say; one a broker."""

    def __init__(self, actors: Mapping[str, Actor[Any, Any]], codec: Codec) -> None:
        self._actors = actors
        self._codec = codec
        self._logger = get_logger(__name__, type(self))

    def check(self, actor: Actor[Any, Any]) -> None:
        """Check an actor's options, and make ``on_dead`` a name.

        Raises:
          InvalidActorOption: one of them breaks its rule.
        """
        told = actor.options.get("on_dead")
        if isinstance(told, Actor):
            actor.options["on_dead"] = told.actor_name
        elif told is not None and (not isinstance(told, str) or not told):
            raise InvalidActorOption("on_dead", told, "must be an actor or the name of one")
        queue = actor.options.get("dead_queue")
        if queue is not None and not (isinstance(queue, str) and QUEUE_NAME.fullmatch(queue)):
            raise InvalidActorOption("dead_queue", queue, "must be the name of a queue")

    def actors(self) -> list[str]:
        """The names of those that have such an option: no script alone may bury their messages."""
        return [
            name
            for name, actor in self._actors.items()
            if actor.options.get("on_dead") or actor.options.get("dead_queue")
        ]

    def queues(self) -> set[str]:
        """The queues that take other queues' dead."""
        queues = {actor.options.get("dead_queue") for actor in self._actors.values()}
        return {queue for queue in queues if queue is not None}

    def routed(self, queue: str, settlement: Settlement, bury: Bury) -> Settlement:
        """The burial with where the letter goes and the entry that tells of it, if there are any.

        Never raises: a burial must not fail for want of a notice.
        """
        actor = self._actors.get(bury.actor)
        if actor is None:
            return settlement
        dead_queue = actor.options.get("dead_queue") or queue
        bury = msgspec.structs.replace(
            bury,
            notice=self._notice(actor.options.get("on_dead"), queue, settlement, bury),
            dead_queue="" if dead_queue == queue else dead_queue,
        )
        return msgspec.structs.replace(settlement, outcome=bury)

    def _notice(self, target: str | None, queue: str, settlement: Settlement, bury: Bury) -> Fields:
        if not target:
            return []
        try:
            actor = self._actors.get(target)
            options = {} if actor is None else actor.message_with_options().options
            return self._codec.encode(_notice(target, options, queue, settlement, bury))
        except Exception:
            self._logger.exception("Nobody is told of the death of %r.", settlement.message_id)
            return []


def is_notice(message: MessageProxy) -> bool:
    """Whether it lies in the queue of a dead message and is to run in its actor's own."""
    return FORWARD in message.options


def forwarded(notice: Message[Any], queue: str) -> Message[Any]:
    """The notice as it is sent on to its actor's queue; under its own id, so that it comes once."""
    options = {name: value for name, value in notice.options.items() if name != FORWARD}
    return dataclasses.replace(notice, queue_name=queue, options=options)


def _notice(
    target: str, options: dict[str, Any], queue: str, settlement: Settlement, bury: Bury
) -> Message[None]:
    told = {
        "id": settlement.message_id,
        "queue": queue,
        "actor": bury.actor,
        "reason": bury.reason,
        "error_type": bury.error_type,
    }
    lease = settlement.lease
    id = f"{settlement.message_id}:dead:{lease.level}:{lease.entry_id.decode()}"
    options = {**options, FORWARD: True, **_correlation(settlement)}
    return Message(queue, target, (told,), {}, options, id)


def _correlation(settlement: Settlement) -> dict[str, str]:
    """The option that keeps the notice in the chain of the dead message, as far as it is known."""
    facts = settlement.facts or []
    if "correlation" not in facts[::2]:
        return {}
    return {"correlation_id": facts[facts[::2].index("correlation") * 2 + 1]}
