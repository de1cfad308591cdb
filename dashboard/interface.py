"""What dramatiq-dashboard's application asks of its interface, answered by the inspector."""

from __future__ import annotations

from broker.broker import StreamsBroker
from broker.operator_commands import QueueInfo
from broker.workers import WorkerInfo


class InspectorInterface:
    """In the place of their RedisInterface, which reads RedisBroker's lists."""

    def __init__(self, broker: StreamsBroker) -> None:
        self._inspector = broker.inspector

    @property
    def queues(self) -> list[QueueInfo]:
        """Every queue with its counts, by name; a command each."""
        return [self._inspector.queue(name) for name in self._inspector.queues()]

    @property
    def workers(self) -> list[WorkerInfo]:
        """Every worker process, the one heard of last first."""
        return self._inspector.workers()
