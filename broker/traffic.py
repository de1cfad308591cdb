"""What goes in and out of a queue, from counters that its streams keep anyway."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from broker.direct import pipeline
from broker.errors import translated
from broker.workers import rows


@dataclass(frozen=True, slots=True)
class QueueTraffic:
    """Entries since the queue's streams were made: one for each time that a message is ready.

    A retry and a message whose time has come enter again; what is settled, parked or buried
    leaves.
    """

    entered: int
    left: int


def traffic(client: Any, streams: Sequence[str]) -> QueueTraffic:
    """The sum over the streams of one queue; those that are not there count nothing.

    Raises:
      BrokerConnectionError: the server can't be reached.
    """
    with translated():
        replies = pipeline(client, streams[0], *(("XINFO", "STREAM", key) for key in streams))
        told = [row for reply in replies for row in rows(reply)]
    entered = sum(int(row[b"entries-added"]) for row in told)
    return QueueTraffic(entered, entered - sum(int(row[b"length"]) for row in told))
