"""What is read from the application's streams of events, and the order of its ids."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_ENTRY_ID: Final = re.compile(r"(\d{1,20})-(\d{1,20})")
_LAST_SEQUENCE: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Source:
    """A stream of the application's, and the consumer group that reads it."""

    stream: str
    group: str

    def __str__(self) -> str:
        return f"{self.stream}:{self.group}"


@dataclass(frozen=True, slots=True)
class Event:
    """One entry. ``fields`` is None when the stream has dropped it since it was handed over."""

    id: str
    fields: dict[bytes, bytes] | None


@dataclass(frozen=True, slots=True)
class Handover:
    """Events in one's hands; until ``deadline_ms`` (unix) nobody else is given them."""

    events: list[Event]
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class Stalled:
    """An event that a consumer was given and did not acknowledge in time."""

    id: str
    deliveries: int


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """Where a source stands. ``lag`` is None when the server can't tell (events were deleted)."""

    source: Source
    #: Events that nobody was given yet.
    lag: int | None
    #: Events in somebody's hands.
    pending: int
    #: How long the oldest event that nobody was given has been there; None for none.
    oldest_age_ms: int | None
    #: The last event before the first one that is not acknowledged.
    acknowledged_to: str


@dataclass(frozen=True, slots=True)
class Aside:
    """An event that can't become a message."""

    source: Source
    event_id: str
    actor: str
    reason: str
    fields: dict[bytes, bytes]


class NoSource(Exception):
    """There is no such stream, or it has no such group (any more)."""


def order(event_id: str) -> tuple[int, int]:
    """What ids are compared by."""
    found = _ENTRY_ID.fullmatch(event_id)
    return (int(found[1]), int(found[2])) if found else (int(event_id), 0)


def before(event_id: str) -> str:
    """The greatest id that is less than this one."""
    ms, sequence = order(event_id)
    if sequence:
        return f"{ms}-{sequence - 1}"
    return f"{ms - 1}-{_LAST_SEQUENCE}" if ms else "0-0"
