"""Event intake: the application's events become messages, in every worker process."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from dramatiq.broker import Broker
from dramatiq.middleware import Middleware
from dramatiq.worker import Worker

from broker import StreamsBroker
from broker.event_source import Source
from broker.intake_commands import IntakeCommands
from middleware.event_reader import Reader, Subscriber
from middleware.events import OPTION

_STOP_S: Final = 5.0


class EventIntake(Middleware):
    """Reads the streams that actors are subscribed to by ``on_event``, while a worker runs.

    One thread a source, in every worker process; they share the group's events. An event is
    acknowledged when its messages are in their queues.
    """

    def __init__(self) -> None:
        self._readers: list[Reader] = []

    @property
    def actor_options(self) -> set[str]:
        return {OPTION}

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        """Begin to read."""
        if not isinstance(broker, StreamsBroker):
            return
        commands = IntakeCommands(broker.commands.client, broker.namespace, broker.commands.keys)
        for source, subscribers in _by_source(broker).items():
            reader = Reader(broker, commands, source, subscribers)
            reader.start()
            self._readers.append(reader)

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """Read no more; what is in hand is dealt with first."""
        for reader in self._readers:
            reader.stop()
        for reader in self._readers:
            reader.join(_STOP_S)
        self._readers.clear()


def _by_source(broker: StreamsBroker) -> dict[Source, list[Subscriber]]:
    found: dict[Source, list[Subscriber]] = defaultdict(list)
    for actor in broker.actors.values():
        for subscription in actor.options.get(OPTION, ()):
            found[subscription.source].append(Subscriber(actor, subscription))
    return found
