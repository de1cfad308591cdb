"""A message in the hands of this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from dramatiq.broker import MessageProxy
from dramatiq.message import Message

from broker import evidence
from broker.flow_commands import Begun
from broker.outcome import Outcome
from broker.sealing import OPTION

#: The delivery count from which an entry is a suspect: its earlier deliveries ended
#: without being settled, so it may be what kills workers. Kept in step with fetch.lua.
SUSPECT_FROM = 3


class Lease(msgspec.Struct, frozen=True, gc=False):
    """The place of an entry and the fence that settling it checks."""

    level: int
    entry_id: bytes
    count: int
    consumer: str


@dataclass(frozen=True, slots=True)
class Slot:
    """One place under the concurrency of a key."""

    key: str
    #: The member that stands for the delivery among the key's slots.
    holder: str


class Delivery(MessageProxy):
    """Dramatiq's proxy of a message, with the lease under which it runs."""

    def __init__(self, message: Message[Any], lease: Lease) -> None:
        super().__init__(message)
        # Read dozens of times a job; by the proxy's __getattr__ each costs a failed look-up first.
        self.queue_name = message.queue_name
        self.actor_name = message.actor_name
        self.message_id = message.message_id
        self.options = message.options
        self.lease = lease
        #: Decided when ack or nack asks for it, or before, by a retry for instance.
        self.outcome: Outcome | None = None
        #: Why it is buried, if whoever failed it says so.
        self.reason: evidence.Reason | None = None
        #: The actor or a middleware enqueued a copy of this message under its own id.
        self.requeued = False
        #: The shutdown released it: it is somebody else's, whatever becomes of a run.
        self.handed_back = False
        #: What its flow has sent with it, packed; empty for nothing.
        self.given = b""
        #: What its flow said when it was taken; None for a message of none.
        self.begun: Begun | None = None
        #: What it returned, for its flow; JSON, empty for None.
        self.result = b""
        #: Held while the job runs, and renewed with the lease.
        self.slot: Slot | None = None
        #: When its run began, unix ms; None until then.
        self.started_ms: int | None = None
        #: The number of this run, the first is 1; a retry that is prepared does not change it.
        self.attempt = 1
        #: Somebody wants it cancelled; written under the lock of `RunningJobs` only.
        self.cancelled = False

    @property
    def message(self) -> Message[Any]:
        """The message itself, whose attributes cost nothing to read."""
        return self._message

    @property
    def ready_at_ms(self) -> int:
        """When the entry came into its stream, unix ms by the server's clock."""
        return int(self.lease.entry_id.partition(b"-")[0])

    @property
    def exception(self) -> BaseException | None:
        """What the actor raised, until Dramatiq clears it."""
        return self._exception

    @property
    def sealed(self) -> bool:
        """Whether its content is encrypted in Redis, and so may show nowhere else."""
        return self.options.get(OPTION) is True

    def told(self, error: BaseException) -> str:
        """The error as it may be stored and logged in clear: of a sealed job its type alone."""
        return evidence.error_type(error) if self.sealed else evidence.text(error)

    def __str__(self) -> str:
        return f"{self.actor_name}(sealed)" if self.sealed else super().__str__()

    def __repr__(self) -> str:
        if self.sealed:
            return f"<{type(self).__qualname__} {self.message_id!r} of {self}>"
        return super().__repr__()
