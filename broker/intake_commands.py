"""The application's streams of events, as a consumer group sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import redis

from broker import packing
from broker.direct import direct, pipeline
from broker.errors import queue_refusal, translated
from broker.event_source import (
    Aside,
    Event,
    Handover,
    NoSource,
    Source,
    SourceInfo,
    Stalled,
    before,
    order,
)
from broker.keys import QueueKeys, intake_keys
from broker.new_message import NewMessage
from broker.permission import PermittedScripts
from broker.scripts import Argument
from broker.server import unix_ms
from broker.workers import unseen

#: Events that can't become messages; the stream they came from has them as long as it likes.
ASIDE_KEPT: Final = 10_000
_REAPED_PER_CALL = 500


class _GroupThere(Exception):
    """Somebody has made the group already."""


@contextmanager
def _source_there() -> Iterator[None]:
    try:
        yield
    except redis.ResponseError as error:
        # UNBLOCKED: what Redis 7 says to a reader when the stream is deleted.
        if str(error).startswith(("NOGROUP", "UNBLOCKED")):
            raise NoSource(str(error)) from error
        if str(error).startswith("BUSYGROUP"):
            raise _GroupThere from error
        raise


class IntakeCommands:
    """Reads streams that belong to the application: no command here shortens one.

    Whoever reads as a consumer needs a client made by :func:`broker.clients.derive`.

    Every method raises Dramatiq's connection errors (see :func:`broker.errors.translated`).
    """

    def __init__(self, client: Any, namespace: str, keys: Callable[[str], QueueKeys]) -> None:
        self._client = client
        self._scripts = PermittedScripts(direct(client, repeat=False))
        self._keys = keys
        keys_of_intake = intake_keys(namespace)
        self._aside, self._aside_events, self._positions, self._replays = keys_of_intake

    def _run(self, name: str, keys: Sequence[str], *args: Argument) -> Any:
        with translated(), _source_there():
            return self._scripts.run(name, keys, args)

    def _ask(self, key: str, *commands: Sequence[Any]) -> list[Any]:
        """Replies in the protocol's own shape, whatever the client would make of them."""
        with translated(), _source_there():
            replies = pipeline(self._client, key, *commands)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
            return replies

    # -- The group ------------------------------------------------------------------------

    def create(self, source: Source, start: str, position: str | None = None) -> None:
        """Make the group, and the stream if it is not there; nothing if it is.

        Where a group was before, the new one goes on from where that had come: from the
        position that was kept, or from the one that the caller remembers.
        """
        known = self.position(source) or position
        begin = start if known is None else self._continued(source, known)
        with suppress(_GroupThere):
            args = ("CREATE", source.stream, source.group, begin, "MKSTREAM")
            self._ask(source.stream, ("XGROUP", *args))
        self.keep_position(source)

    def _continued(self, source: Source, position: str) -> str:
        """The position, unless the stream is a new one whose ids begin before it."""
        rows = self._ask(source.stream, ("XREVRANGE", source.stream, "+", "-", "COUNT", 1))[0]
        last = _event(rows[0]).id if rows else "0-0"
        return position if order(last) >= order(position) else "0"

    def position(self, source: Source) -> str | None:
        """Up to here all was acknowledged when it was last noted; None for a new source."""
        with translated():
            found = self._client.execute_command("HGET", self._positions, _name(source))
        return None if found is None else _text(found)

    def keep_position(self, source: Source) -> str:
        """Note up to where every event is acknowledged, and return it. Raises as :meth:`look`."""
        position = self.look(source).acknowledged_to
        with translated():
            self._client.execute_command("HSET", self._positions, _name(source), position)
        return position

    def sources(self) -> list[Source]:
        """Every source that was ever read."""
        with translated():
            names = self._client.execute_command("HKEYS", self._positions)
        return sorted((_source(_text(name)) for name in names), key=str)

    def look(self, source: Source) -> SourceInfo:
        """Where the source stands.

        Raises:
          NoSource: the stream or the group is not there.
        """
        found = self._run("look_group", (source.stream,), source.group)
        if not found:
            raise NoSource(f"{source.stream} has no group {source.group}")
        now, lag, pending, last, held, waiting = found
        handed, first = _text(last), _text(held)
        age_ms = int(now) - order(_text(waiting))[0] if waiting else None
        return SourceInfo(
            source=source,
            lag=None if lag < 0 else lag,
            pending=pending,
            oldest_age_ms=None if age_ms is None else max(0, age_ms),
            acknowledged_to=before(first) if first else handed,
        )

    # -- Events ---------------------------------------------------------------------------

    def read(
        self, source: Source, consumer: str, count: int, block_ms: int, lease_ms: int
    ) -> Handover:
        """Up to ``count`` events that nobody has, after ``block_ms`` at the latest."""
        limits = ("COUNT", count, "BLOCK", block_ms)
        return self._read(source, consumer, limits, ">", lease_ms)

    def read_own(self, source: Source, consumer: str, count: int, lease_ms: int) -> Handover:
        """Events that this consumer has been given before; it may hold them again."""
        return self._read(source, consumer, ("COUNT", count), "0", lease_ms)

    def _read(
        self, source: Source, consumer: str, limits: Sequence[Any], after: str, lease_ms: int
    ) -> Handover:
        stream = source.stream
        read = ("XREADGROUP", "GROUP", source.group, consumer, *limits, "STREAMS", stream, after)
        clock, reply = self._ask(stream, ("TIME",), read)
        rows = reply[0][1] if reply else []
        # The first command's clock: nobody's hold is longer than what was read after it.
        return Handover([_event(row) for row in rows], unix_ms(clock) + lease_ms // 2)

    def stalled(self, source: Source, lease_ms: int, count: int) -> list[Stalled]:
        """Events whose consumer has said nothing for the lease."""
        args = (source.group, lease_ms, count)
        flat = self._run("stalled_events", (source.stream,), *args)
        return [Stalled(_text(flat[n]), flat[n + 1]) for n in range(0, len(flat), 2)]

    def claim(
        self, source: Source, consumer: str, stalled: Iterable[Stalled], lease_ms: int
    ) -> Handover:
        """Take over those of them that are still nobody's."""
        stream, ids = source.stream, [each.id for each in stalled]
        clock, rows = self._ask(
            stream, ("TIME",), ("XCLAIM", stream, source.group, consumer, lease_ms, *ids)
        )
        return Handover([_event(row) for row in rows if row], unix_ms(clock) + lease_ms // 2)

    def acknowledge(self, source: Source, event_ids: Sequence[str]) -> None:
        """The events are dealt with."""
        self._ask(source.stream, ("XACK", source.stream, source.group, *event_ids))

    def range(self, stream: str, start: str, end: str, count: int) -> list[Event]:
        """Events by their ids, whoever has them."""
        (rows,) = self._ask(stream, ("XRANGE", stream, start, end, "COUNT", count))
        return [_event(row) for row in rows]

    def replayed_to(self, replay: str) -> str | None:
        """The last event that this replay has dealt with; None for one that is new."""
        with translated():
            found = self._client.execute_command("HGET", self._replays, replay)
        return None if found is None else _text(found)

    def keep_replayed(self, replay: str, event_id: str) -> None:
        """Note how far a replay has come."""
        with translated():
            self._client.execute_command("HSET", self._replays, replay, event_id)

    def reap(self, source: Source, idle_ms: int) -> int:
        """Forget consumers that are gone and hold nothing; returns how many.

        Thousands go in several calls, so that none of them is long.
        """
        seen = unseen(self._client, source.group, (source.stream,), idle_ms)
        gone = [name for _, name, held in seen if not held]
        calls = (gone[n : n + _REAPED_PER_CALL] for n in range(0, len(gone), _REAPED_PER_CALL))
        keys = (source.stream,)
        return sum(int(self._run("reap_group", keys, source.group, *names)) for names in calls)

    # -- Messages -------------------------------------------------------------------------

    def take(
        self,
        queue: str,
        source: str,
        deadline_ms: int,
        token: str,
        messages: Sequence[tuple[str, NewMessage]],
    ) -> int | None:
        """Make messages ready, each by the name of its event and actor, which is taken by that.

        Returns how many messages of the queue wait now; None if it was too late.

        Raises:
          QueueClosed: none was made.
        """
        k = self._keys(queue)
        keys = (
            *(k.taken(source), k.wake, k.control, k.dedup, k.lapsing, k.job_prefix),
            *(k.events, k.scheduled, *k.ready),
        )
        packed = [
            packing.pack_texts((name, m.message_id, m.level, m.packed_claim, m.recorded, m.fields))
            for name, m in messages
        ]
        try:
            waiting = int(self._run("take_events", keys, deadline_ms, token, *packed))
        except redis.ResponseError as error:
            if (refusal := queue_refusal(error, queue)) is not None:
                raise refusal from None
            raise
        return None if waiting < 0 else waiting

    def forget(self, queue: str, source: str, names: Sequence[str]) -> None:
        """The events of these names are acknowledged, so they are not handed over again."""
        with translated():
            key = self._keys(queue).taken(source)
            self._client.execute_command("ZREM", key, *names)

    def forgotten(self, queue: str, source: Source, age_ms: int, limit: int) -> int:
        """Forget the names that somebody who died left, among the ``limit`` oldest.

        ``age_ms`` is how long ago they were taken at least. Returns how many were looked at.
        """
        key = self._keys(queue).taken(str(source))
        with translated():
            until_ms = unix_ms(self._ask(key, ("TIME",))[0]) - age_ms
            args = ("ZRANGE", key, "-inf", until_ms, "BYSCORE", "LIMIT", 0, limit)
            names = [_text(name) for name in self._client.execute_command(*args)]
        if not names:
            return 0
        ids = [name.split(" ", 1)[0] for name in names]
        held = {_text(i) for i in self._run("held_events", (source.stream,), source.group, *ids)}
        done = [name for name, id in zip(names, ids, strict=True) if id not in held]
        if done:
            self.forget(queue, str(source), done)
        return len(names)

    # -- What can't become a message ------------------------------------------------------

    def set_aside(self, asides: Sequence[Aside]) -> int:
        """Keep events with the reason; returns how many older ones went."""
        args: list[Argument] = []
        for aside in asides:
            evidence: list[str | bytes] = [
                *(aside.source.stream, aside.source.group, aside.event_id),
                *(aside.actor, aside.reason),
            ]
            flat = [part for pair in aside.fields.items() for part in pair]
            name = f"{_name(aside.source)}\n{aside.event_id}\n{aside.actor}"
            args += (name, packing.pack([*evidence, *flat]))
        return int(self._run("set_aside", (self._aside, self._aside_events), ASIDE_KEPT, *args))

    def asides(self, offset: int, limit: int) -> list[Aside]:
        """One page of what was set aside, the latest first."""
        with translated():
            end = offset + limit - 1
            names = self._client.execute_command("ZREVRANGE", self._aside, offset, end)
            packed = (
                self._client.execute_command("HMGET", self._aside_events, *names) if names else []
            )
        return [_aside(packing.unpack(each)) for each in packed if each is not None]


def _aside(parts: list[bytes]) -> Aside:
    stream, group, event_id, actor, reason = (part.decode() for part in parts[:5])
    flat = parts[5:]
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    return Aside(Source(stream, group), event_id, actor, reason, fields)


def _name(source: Source) -> str:
    return f"{source.stream}\n{source.group}"


def _source(name: str) -> Source:
    stream, _, group = name.partition("\n")
    return Source(stream, group)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _event(row: Any) -> Event:
    event_id, fields = row
    if fields is None or isinstance(fields, dict):  # a cluster's client converts
        return Event(_text(event_id), fields or None)
    return Event(_text(event_id), dict(zip(fields[::2], fields[1::2], strict=True)))
