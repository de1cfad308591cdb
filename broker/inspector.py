"""What operators see and do: read-only queries and bounded, resumable actions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dramatiq.errors import DecodeError
from dramatiq.message import Message

from broker import entry, evidence
from broker.commands import Commands, QueueInfo, Redriven
from broker.errors import translated
from broker.evidence import Attempt
from broker.keys import queues_key
from broker.limits import QueueLimit

_BATCH = 200
_TRIMMED_PER_CALL = 10_000
_EVIDENCE = 20  # parts of a dead letter's value before the entry's fields: bury.lua


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A buried message with the evidence. ``message`` is None when it can't be decoded."""

    id: str
    #: One of :data:`broker.evidence.Reason`.
    reason: str
    #: The class of the exception, without its module; empty for none.
    error_type: str
    #: ``Type: message``, or what was wrong with the entry.
    error: str
    traceback: str
    #: The newest, oldest first; those whose worker left them have no error.
    attempts: list[Attempt]
    died_at_ms: int
    deliveries: int
    level: int
    #: What the message was deduplicated by; empty for none.
    deduplication_key: str
    actor: str | None
    message: Message[Any] | None
    fields: dict[str, bytes]

    @property
    def correlation_id(self) -> str | None:
        """The id of the chain that the message belongs to, if it carries one."""
        found = self._options.get("correlation_id")
        return found if isinstance(found, str) else None

    @property
    def trace_id(self) -> str | None:
        """The trace of the send, from the message's W3C ``traceparent``."""
        parts = str(self._options.get("traceparent", "")).split("-")
        return parts[1] if len(parts) == 4 else None

    @property
    def _options(self) -> Mapping[str, Any]:
        return {} if self.message is None else self.message.options


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
    found, flat = entry.to_mapping(parts[:_EVIDENCE]), parts[_EVIDENCE:]
    fields = dict(zip(flat[::2], flat[1::2], strict=False))
    try:
        message = entry.decode(queue, fields)
    except DecodeError:
        message = None
    trail = evidence.load(found[b"trail"])
    attempts = trail.attempts
    if not attempts and message is not None:  # buried by a script, which reads no JSON
        attempts = evidence.attempts_of(message.options)
    return DeadLetter(
        id=id,
        reason=found[b"reason"].decode(),
        error_type=found[b"error_type"].decode("utf-8", "replace"),
        error=found[b"error"].decode("utf-8", "replace"),
        traceback=trail.traceback,
        attempts=sorted([*attempts, *evidence.lost(found[b"lost"])], key=_ended),
        died_at_ms=int(found[b"died_at"]),
        deliveries=int(found[b"deliveries"]),
        level=int(found[b"level"]),
        deduplication_key=found[b"dedup"].decode(),
        actor=_actor(message, found[b"actor"]),
        message=message,
        fields={name.decode("utf-8", "surrogateescape"): value for name, value in fields.items()},
    )


def _ended(attempt: Attempt) -> int:
    return attempt.ended_at_ms


def _actor(message: Message[Any] | None, noted: bytes) -> str | None:
    if message is not None:
        return message.actor_name
    return noted.decode("utf-8", "replace") or None


_COUNTERS = (evidence.ATTEMPTS, "retries", "traceback", "requeue_timestamp", "unknown_actor_since")


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
