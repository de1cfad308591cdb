"""How a delivery ends."""

from __future__ import annotations

from enum import Enum
from typing import TypeAlias

import msgspec

from broker.entry import Fields


class Done(msgspec.Struct, frozen=True):
    """The job is finished; its entry goes."""

    #: For the flow that the message belongs to, JSON; empty for none.
    result: bytes = b""


class Retry(msgspec.Struct, frozen=True):
    """A successor with these fields takes the entry's place after ``delay_ms``."""

    delay_ms: int
    level: int
    fields: Fields


class Park(msgspec.Struct, frozen=True):
    """Put the entry aside as it is for ``delay_ms``; no attempt is used up."""

    delay_ms: int


class Parked(msgspec.Struct, frozen=True):
    """The script that refused it a start has put the entry aside: nothing is left to settle."""


class Release(msgspec.Struct, frozen=True):
    """Hand the entry back to the group at once; this delivery does not count."""


class Cancel(msgspec.Struct, frozen=True):
    """The job was cancelled; its entry goes and it is not tried again."""


class Bury(msgspec.Struct, frozen=True):
    """Move the entry, as it lies in its stream, to the dead letters with the evidence.

    ``error``, ``trail`` and nothing else tell what a job's exception said.
    """

    reason: str
    error: str = ""
    actor: str = ""
    #: The name of the exception's class; empty for none.
    error_type: str = ""
    #: Traceback and attempts: :class:`broker.evidence.Trail`. Bytes when they are sealed.
    trail: str | bytes = ""
    #: An entry that is added to the same stream in the same step, to tell of it; empty for none.
    notice: Fields = msgspec.field(default_factory=list)
    #: The queue whose dead letters take it; empty for its own.
    dead_queue: str = ""


class Abandon(msgspec.Struct, frozen=True):
    """Settle nothing: the lease runs out and the entry is delivered again."""


Outcome: TypeAlias = Done | Retry | Park | Parked | Release | Cancel | Bury | Abandon


class Settled(Enum):
    """What the server said of a settlement."""

    OK = b"ok"
    #: Another delivery owns the entry: this worker had lost its lease.
    STALE = b"stale"
    #: The entry is no longer there: settled before, or purged.
    GONE = b"gone"
    #: Nor is there a trace of its message: purged, or the server has lost its data.
    LOST = b"lost"
