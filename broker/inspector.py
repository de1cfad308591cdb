"""What operators see and do: read-only queries and bounded, resumable actions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from dramatiq.errors import DecodeError
from dramatiq.message import Message

from broker import entry
from broker.commands import Commands, QueueInfo, Redriven
from broker.errors import translated
from broker.keys import queues_key
from broker.limits import QueueLimit

_BATCH = 200
_TRIMMED_PER_CALL = 10_000
_EVIDENCE = 12  # parts of a dead letter's value before the entry's fields: bury.lua


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A buried message with the evidence. ``message`` is None when it can't be decoded."""

    id: str
    reason: str
    error: str
    died_at_ms: int
    deliveries: int
    level: int
    #: What the message was deduplicated by; empty for none.
    deduplication_key: str
    actor: str | None
    message: Message[Any] | None
    fields: dict[str, bytes]


class Inspector:
    """Queries and operator actions over a namespace."""

    def __init__(self, commands: Commands, namespace: str) -> None:
        self._commands = commands
        self._namespace = namespace

    @property
    def _client(self) -> Any:
        return self._commands.client

    def queues(self) -> list[str]:
        """The names of all queues that were ever used, sorted."""
        with translated():
            return sorted(
                name.decode() for name in self._client.smembers(queues_key(self._namespace))
            )

    def queue(self, name: str) -> QueueInfo:
        """Counts of one queue; all 0 for a queue nobody used."""
        return self._commands.inspect(name)

    def size(self, name: str) -> int:
        """Messages that are ready, in flight or scheduled."""
        k = self._commands.keys(name)
        with translated():
            return int(
                sum(self._client.xlen(stream) for stream in k.ready)
                + self._client.zcard(k.scheduled)
            )

    def dead(self, name: str, offset: int = 0, limit: int = 50) -> list[DeadLetter]:
        """One page of the dead letters, the latest first."""
        k = self._commands.keys(name)
        with translated():
            ids = self._client.zrevrange(k.dead, offset, offset + limit - 1)
            values = self._client.hmget(k.dead_messages, ids) if ids else []
        return [
            _letter(name, id.decode(), value)
            for id, value in zip(ids, values, strict=True)
            if value is not None
        ]

    def redrive(self, name: str, ids: Iterable[str] | None = None) -> int:
        """Move dead letters back with their retry counters reset; returns how many moved.

        Without ``ids`` all of them, oldest first. Interrupted, it can simply be run again.
        """
        moved = 0
        for batch in self._batches(name, ids):
            k = self._commands.keys(name)
            with translated():
                values = self._client.hmget(k.dead_messages, batch)
            letters = [
                _letter(name, id, value)
                for id, value in zip(batch, values, strict=True)
                if value is not None
            ]
            moved += self._commands.redrive(name, [_redriven(letter) for letter in letters])
        return moved

    def _batches(self, name: str, ids: Iterable[str] | None) -> Iterator[list[str]]:
        if ids is None:
            with translated():
                ids = [
                    id.decode() for id in self._client.zrange(self._commands.keys(name).dead, 0, -1)
                ]
        wanted = list(ids)
        for start in range(0, len(wanted), _BATCH):
            yield wanted[start : start + _BATCH]

    def purge(self, name: str) -> int:
        """Drop what is ready, scheduled or in flight; returns how many messages."""
        total = 0
        while dropped := self._commands.purge(name, _BATCH):
            total += dropped
        return total

    def purge_dead(self, name: str, *, older_than_ms: int = 0) -> int:
        """Drop dead letters of at least this age; returns how many."""
        total = 0
        while True:
            dropped = self._commands.sweep(name, older_than_ms, _BATCH)
            total += dropped
            if dropped < _BATCH:
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


def _letter(queue: str, id: str, packed: bytes) -> DeadLetter:
    parts = entry.unpack(packed)
    evidence, flat = entry.to_mapping(parts[:_EVIDENCE]), parts[_EVIDENCE:]
    fields = dict(zip(flat[::2], flat[1::2], strict=False))
    try:
        message = entry.decode(queue, fields)
    except DecodeError:
        message = None
    actor = fields.get(b"actor")
    return DeadLetter(
        id=id,
        reason=evidence[b"reason"].decode(),
        error=evidence[b"error"].decode("utf-8", "replace"),
        died_at_ms=int(evidence[b"died_at"]),
        deliveries=int(evidence[b"deliveries"]),
        level=int(evidence[b"level"]),
        deduplication_key=evidence[b"dedup"].decode(),
        actor=message.actor_name
        if message
        else None
        if actor is None
        else actor.decode("utf-8", "replace"),
        message=message,
        fields={name.decode("utf-8", "surrogateescape"): value for name, value in fields.items()},
    )


_COUNTERS = ("retries", "traceback", "requeue_timestamp", "unknown_actor_since")


def _redriven(letter: DeadLetter) -> Redriven:
    if letter.message is None:
        return Redriven(letter.id, "", letter.level, "", _flat(letter.fields))
    options = {
        name: value for name, value in letter.message.options.items() if name not in _COUNTERS
    }
    before = options.get("redrives")
    options["redrives"] = 1 + (before if type(before) is int else 0)
    message = letter.message.copy()
    message.options.clear()
    message.options.update(options)
    return Redriven(
        letter.id,
        message.message_id,
        letter.level,
        letter.deduplication_key,
        entry.encode(message),
    )


def _flat(fields: dict[str, bytes]) -> list[bytes]:
    """The fields as they came: also those whose names are no text."""
    return [
        part
        for name, value in fields.items()
        for part in (name.encode("utf-8", "surrogateescape"), value)
    ]
