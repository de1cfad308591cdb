"""What happened to the jobs of a queue, for whoever wants to know."""

from __future__ import annotations

import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final

import redis

from broker import clients
from broker.checks import check_text
from broker.commands import Commands
from broker.errors import InvalidOption, translated

_ID: Final = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?")
_READ: Final = 500
_BLOCK_MS: Final = 5_000
_ABANDONED_MS: Final = 60_000
#: Between two looks for queues that are new.
_LOOK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to one job."""

    #: Of the event; later ones are greater.
    id: str
    queue: str
    #: queued, scheduled, started, completed, failed (one attempt), retrying, dead, cancelled
    #: or redriven.
    name: str
    message_id: str
    actor: str
    #: Why it is dead or cancelled; empty otherwise.
    reason: str
    #: What the attempt raised; empty otherwise.
    error: str

    @property
    def at_ms(self) -> int:
        """When it happened, unix ms by the server's clock."""
        return int(self.id.partition("-")[0])


class Events:
    """The event streams of a namespace's queues.

    A stream keeps about the last ten thousand events of its queue. Jobs of which no records
    are kept have no events either.
    """

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def subscribe(self, queue: str, *, group: str, start: str = "$") -> Subscription:
        """Iterate over a queue's events from now on, as one of a group of subscribers.

        Each event goes to one subscriber of the group, at least once: it is acknowledged
        when the next one is asked for, and one that a subscriber has had for a minute without
        that goes to another. What the stream drops before the group has read it is missed.

        Args:
          group: its position is kept in the server; the first subscriber makes it.
          start: where a new group begins: ``$`` now, ``0`` with all that is there, or an
            event's id.

        Raises:
          InvalidOption: the group's name is empty.
        """
        check_text("group", group)
        return Subscription(self._commands, queue, group, start)

    def latest(self, queue: str, limit: int = 100) -> list[Event]:
        """The newest events of a queue that are still there, the newest first."""
        with translated():
            client: Any = self._commands.client
            rows = client.xrevrange(self._commands.keys(queue).events, count=limit)
        return [_event(queue, *row) for row in rows]

    def follow(
        self, queues: Iterable[str] | Callable[[], Iterable[str]], *, start: str | None = None
    ) -> Iterator[Event]:
        """All events of these queues, as they come, for whoever looks on; it blocks between them.

        Args:
          queues: their names, or a function that returns them: that is asked again each second,
            and all events come of a queue that is new then.
          start: an event's id, to begin after that; ``0-0`` with all that is there; None now.

        Raises:
          InvalidOption: ``start`` is no event's id.
          BrokerConnectionError: the server is away.
        """
        if start is not None:
            _check_id("start", start)
        names = queues if callable(queues) else None
        arrived: SimpleQueue[list[Event] | Exception] = SimpleQueue()
        stopping = threading.Event()
        followed: set[str] = set()

        def begin(queue: str, after: str) -> None:
            followed.add(queue)
            threading.Thread(
                target=self._relay, args=(queue, after, arrived, stopping), daemon=True
            ).start()

        try:
            for queue in queues() if callable(queues) else queues:
                begin(queue, newest_event(self._commands, queue) if start is None else start)
            looked_at = time.monotonic()
            while True:
                yield from _next_of(arrived, None if names is None else _LOOK_S)
                if names is not None and time.monotonic() - looked_at >= _LOOK_S:
                    for queue in sorted(set(names()) - followed):
                        begin(queue, "0-0" if start is None else start)
                    looked_at = time.monotonic()
        finally:
            stopping.set()

    def _relay(
        self,
        queue: str,
        after: str,
        arrived: SimpleQueue[list[Event] | Exception],
        stopping: threading.Event,
    ) -> None:
        # A thread a queue: on a cluster no read covers two of them.
        try:
            with reading(self._commands, queue) as read:
                while not stopping.is_set():
                    events = read(after, _BLOCK_MS)
                    if events:
                        after = events[-1].id
                        arrived.put(events)
        except Exception as error:  # raised by the iterator, in its caller
            arrived.put(error)


def _next_of(arrived: SimpleQueue[list[Event] | Exception], timeout_s: float | None) -> list[Event]:
    """What has come, or nothing in time."""
    try:
        events = arrived.get(timeout=timeout_s)
    except Empty:
        return []
    if isinstance(events, Exception):
        raise events
    return events


class Subscription:
    """An endless iterator over events; a context manager that closes it. Not thread-safe."""

    def __init__(self, commands: Commands, queue: str, group: str, start: str) -> None:
        self._queue = queue
        self._group = group
        self._start = start
        self._stream = commands.keys(queue).events
        self._client = clients.derive(commands.client, socket_timeout=_BLOCK_MS / 1000 + 5)
        self._name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._closed = False
        with translated():
            self._make_group()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Event]:
        """The events, as they come; it blocks between them.

        Raises:
          BrokerConnectionError: the server is away. Iterate again: nothing is lost.
        """
        while not self._closed:
            with translated():
                rows = self._abandoned() or self._next()
            for row in rows:
                if row[1] is not None:
                    yield _event(self._queue, *row)
                with translated():
                    self._client.xack(self._stream, self._group, row[0])

    def close(self) -> None:
        """Leave the group. What is not acknowledged goes to another subscriber."""
        if self._closed:
            return
        self._closed = True
        with translated(), self._client:
            if not self._client.xpending_range(
                self._stream, self._group, "-", "+", 1, consumername=self._name
            ):
                self._client.xgroup_delconsumer(self._stream, self._group, self._name)

    def _make_group(self) -> None:
        try:
            self._client.xgroup_create(self._stream, self._group, self._start, mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def _next(self) -> list[Any]:
        try:
            reply = self._client.xreadgroup(
                self._group, self._name, {self._stream: ">"}, count=_READ, block=_BLOCK_MS
            )
        except redis.ResponseError as error:
            if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                raise
            self._start = "0"  # the stream was deleted: what is there now is new
            self._make_group()
            return []
        return list(reply[0][1]) if reply else []

    def _abandoned(self) -> list[Any]:
        """What another subscriber has had for too long, or this one did not acknowledge."""
        try:
            reply = self._client.xautoclaim(
                self._stream, self._group, self._name, _ABANDONED_MS, count=_READ
            )
        except redis.ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            return []
        return list(reply[1])


def _check_id(name: str, value: str) -> None:
    """Such as the server gives: two numbers of 64 bits, or the first of them alone."""
    found = _ID.fullmatch(value)
    if found is None or any(int(part) >= 2**64 for part in found.groups(default="0")):
        raise InvalidOption(name, value, "must be the id of an event, or 0-0 for all")


def newest_event(commands: Commands, queue: str) -> str:
    """The id of the queue's newest event, to read on from there; 0-0 if there was none."""
    with translated():
        newest = commands.client.execute_command(
            "XREVRANGE", commands.keys(queue).events, "+", "-", "COUNT", 1
        )
    return newest[0][0].decode() if newest else "0-0"


@contextmanager
def reading(commands: Commands, queue: str) -> Iterator[Callable[[str, int], list[Event]]]:
    """Gives a function of an event's id and a time in ms, over one connection.

    It returns the next events after that id, and waits so long for the first one.
    """
    stream = commands.keys(queue).events

    def read(after: str, wait_ms: int) -> list[Event]:
        with translated():
            reply = client.xread({stream: after}, count=_READ, block=min(wait_ms, _BLOCK_MS))
        return [_event(queue, *row) for row in reply[0][1]] if reply else []

    with clients.derive(commands.client, socket_timeout=_BLOCK_MS / 1000 + 5) as client:
        yield read


def _event(queue: str, id: bytes, fields: dict[bytes, bytes]) -> Event:
    def text(name: bytes) -> str:
        return fields.get(name, b"").decode("utf-8", "replace")

    return Event(
        id=id.decode(),
        queue=queue,
        name=text(b"event"),
        message_id=text(b"id"),
        actor=text(b"actor"),
        reason=text(b"reason"),
        error=text(b"error"),
    )
