"""What is there at the end: the sinks, the storage, the server and the workers' journal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from actors.inbox import inbox_key
from bench.demo.journal import History
from bench.demo.sinks import Mail, Push
from broker import StreamsBroker
from broker.dead_letter import DeadLetter


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a user's inbox, as it lies in the stream."""

    user_id: str
    message_id: str
    content: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Death:
    """One dead letter."""

    queue: str
    message_id: str
    reason: str
    error: str
    deliveries: int


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a queue still holds, dead letters aside."""

    ready: int
    scheduled: int
    in_flight: int


@dataclass
class Evidence:
    """Plain data, so that the verifier can be tested with any."""

    storage: Path
    mails: list[Mail] = field(default_factory=list)
    pushes: list[Push] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)
    leftovers: dict[str, Leftover] = field(default_factory=dict)
    history: History = field(default_factory=History)
    due_ms: dict[str, int] = field(default_factory=dict)
    """When each message might start at the earliest, unix ms."""


def read_entries(broker: StreamsBroker, users: Iterable[str]) -> list[Entry]:
    """The users' inboxes entry by entry, repeats included."""
    found = []
    for user_id in sorted(set(users)):
        entries: Any = broker.client.xrange(inbox_key(broker.namespace, user_id))
        for _, fields in entries:
            named = {_text(name): value for name, value in fields.items()}
            content = msgspec.json.decode(named["content"])
            found.append(Entry(user_id, _text(named["id"]), content))
    return found


def read_deaths(broker: StreamsBroker) -> list[Death]:
    """The dead letters of every queue."""
    return [
        Death(
            queue=queue,
            message_id=letter.id,
            reason=str(letter.reason),
            error=str(letter.error or ""),
            deliveries=letter.deliveries,
        )
        for queue in broker.inspector.queues()
        for letter in _letters(broker, queue)
    ]


def _letters(broker: StreamsBroker, queue: str) -> list[DeadLetter]:
    # The jobs are encrypted, and this process has the key.
    return [broker.codec.revealed(letter) for letter in broker.inspector.dead(queue, limit=1_000)]


def read_leftovers(broker: StreamsBroker) -> dict[str, Leftover]:
    """What each queue still holds."""
    infos = [broker.inspector.queue(queue) for queue in broker.inspector.queues()]
    return {info.name: Leftover(info.ready, info.scheduled, info.in_flight) for info in infos}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
