"""What operators see and do: read-only queries and bounded, resumable actions."""

from __future__ import annotations

import redis

from broker import entry, server
from broker.commands import Commands, QueueInfo
from broker.dead_letters import DeadLetters
from broker.direct import pipeline
from broker.errors import translated
from broker.intake import Intake
from broker.intake_commands import IntakeCommands
from broker.keys import GROUP, RELEASED, queues_key
from broker.limits import QueueLimit
from broker.schedules import Schedules
from broker.server import ServerMemory

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
        k = self._commands.keys(name)
        streams = (*k.ready, k.wake)
        commands = [("XINFO", "CONSUMERS", stream, GROUP) for stream in streams]
        live: set[bytes] = set()
        with translated():
            for reply in pipeline(self._client, k.wake, *commands):
                if isinstance(reply, redis.ResponseError):  # no such stream, or no group yet
                    continue
                if isinstance(reply, Exception):
                    raise reply
                rows = (entry.to_mapping(row) if isinstance(row, list) else row for row in reply)
                live.update(row[b"name"] for row in rows if int(row[b"idle"]) < within_ms)
        live.discard(RELEASED)
        return {name.decode() for name in live}

    def servers(self) -> list[ServerMemory]:
        """The memory of the server; of a cluster, of each node that answers."""
        return server.memory(self._client)

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
        total = 0
        while dropped := self._commands.purge(name, _BATCH):
            total += dropped
        return total

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

    def pause(self, name: str) -> bool:
        """Start no more jobs of this queue; enqueueing goes on."""
        return self._commands.pause(name)

    def resume(self, name: str) -> bool:
        """End a pause."""
        return self._commands.resume(name)
