"""The worker processes that the server knows of, put together from the queues' consumers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis

from broker import entry
from broker.consumer_name import ConsumerName
from broker.direct import pipeline
from broker.errors import translated
from broker.keys import GROUP, RELEASED, QueueKeys

_ABSENT: Final = ("NOGROUP", "no such key")


@dataclass(frozen=True, slots=True)
class Sight:
    """One consumer of one stream."""

    queue: str
    consumer: str
    #: Since the server heard of it.
    idle_ms: int
    #: Entries that it holds.
    pending: int


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """One worker process. Those that vanished stay known until another one reaps them."""

    name: str
    #: Empty for a consumer that is not Headrace's.
    host: str
    pid: int | None
    #: Queue -> jobs of it that it holds, of each queue that it works on.
    in_flight: dict[str, int]
    #: Since the server heard of it, on whichever queue.
    idle_ms: int


def sights(client: Any, keys: QueueKeys) -> list[Sight]:
    """The consumers of a queue's streams.

    Raises:
      BrokerConnectionError: the server can't be reached.
    """
    streams = (*keys.ready, keys.wake)
    return [_sight(keys, streams[n], row) for n, row in _consumers(client, GROUP, streams)]


def unseen(
    client: Any, group: str, streams: Sequence[str], idle_ms: int
) -> list[tuple[int, bytes, int]]:
    """The consumers that a server has not heard of for so long.

    Each with the number of its stream among the given ones, from 0, and of entries that it holds.

    Raises:
      BrokerConnectionError: the server can't be reached.
    """
    return [
        (number, row[b"name"], row[b"pending"])
        for number, row in _consumers(client, group, streams)
        if row[b"idle"] >= idle_ms
    ]


def _consumers(
    client: Any, group: str, streams: Sequence[str]
) -> Iterator[tuple[int, dict[bytes, Any]]]:
    """What XINFO says of each, but of who holds what was handed back; with its stream's number."""
    commands = [("XINFO", "CONSUMERS", stream, group) for stream in streams]
    with translated():
        for number, reply in enumerate(pipeline(client, streams[0], *commands)):
            for row in rows(reply):
                if row[b"name"] != RELEASED:
                    yield number, row


def gathered(sights: Iterable[Sight]) -> list[WorkerInfo]:
    """The processes behind the consumers, the one heard of last first."""
    workers: dict[str, WorkerInfo] = {}
    for sight in sights:
        known = workers.get(sight.consumer)
        in_flight = {} if known is None else known.in_flight
        in_flight[sight.queue] = in_flight.get(sight.queue, 0) + sight.pending
        idle_ms = sight.idle_ms if known is None else min(known.idle_ms, sight.idle_ms)
        name = ConsumerName.parse(sight.consumer)
        workers[sight.consumer] = WorkerInfo(
            name=sight.consumer,
            host="" if name is None else name.host,
            pid=None if name is None else name.pid,
            in_flight=in_flight,
            idle_ms=idle_ms,
        )
    return sorted(workers.values(), key=lambda worker: worker.idle_ms)


def _sight(keys: QueueKeys, stream: str, row: dict[bytes, Any]) -> Sight:
    name = row[b"name"].decode("utf-8", "replace")
    pending = 0 if stream == keys.wake else int(row[b"pending"])  # signals are no jobs
    return Sight(keys.queue, name, int(row[b"idle"]), pending)


def rows(reply: Any) -> list[dict[bytes, Any]]:
    """What XINFO tells of a stream or its consumers; nothing of one that is not there.

    Raises:
      The reply, if it is another error.
    """
    if isinstance(reply, redis.ResponseError) and str(reply).startswith(_ABSENT):
        return []
    if isinstance(reply, Exception):
        raise reply
    if isinstance(reply, dict):
        return [reply]
    if reply and not isinstance(reply[0], list | dict):
        return [entry.to_mapping(reply)]
    return [entry.to_mapping(row) if isinstance(row, list) else row for row in reply]
