"""What operators see and do: read-only queries and bounded, resumable actions."""

from __future__ import annotations

from collections.abc import Iterator

from broker import server
from broker.commands import Commands
from broker.dead_letters import DeadLetters
from broker.errors import translated
from broker.intake import Intake
from broker.intake_commands import IntakeCommands
from broker.keys import queues_key
from broker.limits import QueueLimit
from broker.operator_commands import QueueInfo
from broker.schedules import Schedules
from broker.server import ServerFacts, ServerMemory
from broker.traffic import QueueTraffic, traffic
from broker.workers import Sight, WorkerInfo, gathered, sights

_BATCH = 200
_TRIMMED_PER_CALL = 10_000


class Inspector(DeadLetters):
    """Queries and operator actions over a namespace."""

    def __init__(self, commands: Commands, namespace: str, schedules: Schedules) -> None:
        super().__init__(commands)
        self._namespace = namespace
        #: Streams of events: how far the intake is behind, and what it could not take.
        self.intake = Intake(IntakeCommands(commands.client, namespace, commands.keys))
        #: What fires by the clock: list, add, remove, pause, resume, run now.
        self.schedules = schedules

    def queues(self) -> list[str]:
        """The names of all queues that were ever used, sorted."""
        with translated():
            return sorted(
                name.decode() for name in self._client.smembers(queues_key(self._namespace))
            )

    def queue(self, name: str) -> QueueInfo:
        """Counts of one queue; all 0 for a queue nobody used."""
        return self._commands.inspect(name)

    def live_consumers(self, name: str, within_ms: int) -> int:
        """How many consumers of a queue the server has heard of within so many ms."""
        return len(self.live_consumer_names(name, within_ms))

    def live_consumer_names(self, name: str, within_ms: int) -> set[str]:
        """The consumers of a queue that the server has heard of within so many ms.

        Those that vanished are known to it until a worker reaps them.
        """
        return {sight.consumer for sight in self._sights(name) if sight.idle_ms < within_ms}

    def workers(self) -> list[WorkerInfo]:
        """Every worker process that the server knows of, the one heard of last first."""
        return gathered(sight for name in self.queues() for sight in self._sights(name))

    def _sights(self, name: str) -> list[Sight]:
        return sights(self._client, self._commands.keys(name))

    def servers(self) -> list[ServerMemory]:
        """The memory of the server; of a cluster, of each node that answers."""
        return server.memory(self._client)

    def server_facts(self) -> list[ServerFacts]:
        """As :meth:`servers`, with version, uptime, clients and load; masters only."""
        return server.facts(self._client)

    def size(self, name: str) -> int:
        """Messages that are ready, in flight or scheduled."""
        k = self._commands.keys(name)
        with translated():
            return int(
                sum(self._client.xlen(stream) for stream in k.ready)
                + self._client.zcard(k.scheduled)
            )

    def purge(self, name: str) -> int:
        """Drop what is ready, scheduled or in flight; returns how many messages."""
        return sum(self.purging(name))

    def purging(self, name: str) -> Iterator[int]:
        """As :meth:`purge`, a step at a time: how many messages went in each."""
        while dropped := self._commands.purge(name, _BATCH):
            yield dropped

    def trim_events(self, name: str, max_length: int) -> int:
        """Shorten the stream of events to about this many; returns how many went."""
        total = 0
        while dropped := self._commands.trim_events(name, max_length, _TRIMMED_PER_CALL):
            total += dropped
        return total

    def limit(self, name: str, limit: QueueLimit) -> bool:
        """Set a queue's bounds over all workers; False if they were so already.

        It holds until somebody sets another, a worker that starts with other settings included.
        """
        return self._commands.limit(name, limit)

    def close(self, name: str) -> bool:
        """Take nothing more from producers: they get QueueClosed. False if it was closed already.

        What is there runs, and so does what its jobs send. Schedules of the queue don't fire, and
        events stay in their streams.
        """
        return self._commands.close(name)

    def open(self, name: str) -> bool:
        """Take messages again; False if the queue was open."""
        return self._commands.open(name)

    def limit_of(self, name: str) -> QueueLimit:
        """The bounds that hold for a queue now."""
        return self._commands.limit_of(name)

    def traffic(self, name: str) -> QueueTraffic:
        """How many entries have come into a queue's streams and have left them, ever."""
        return traffic(self._client, self._commands.keys(name).ready)

    def pause(self, name: str) -> bool:
        """Start no more jobs of this queue; enqueueing goes on."""
        return self._commands.pause(name)

    def resume(self, name: str) -> bool:
        """End a pause."""
        return self._commands.resume(name)
