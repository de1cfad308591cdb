"""What is left in queues, to a file and from one; what is encrypted stays so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from broker import entry, packing
from broker.commands import Commands
from broker.errors import translated
from broker.export_file import Left, Place, checked, messages, written
from broker.new_message import Claim, NewMessage
from broker.server import time_ms

_BATCH: Final = 200


def export(commands: Commands, namespace: str, queues: Iterable[str], path: Path) -> Iterator[int]:
    """Write everything that waits, runs or is dead to a file; how many messages, step by step.

    Nothing is taken out of the queues, so do it when nothing runs and nothing is sent any more.
    The file appears when it is complete, closed to others: it holds what is in the queues.

    Raises:
      BrokerConnectionError, OSError: there is no file.
    """
    with written(path, namespace) as write:
        for queue in queues:
            for batch in _left(commands, queue):
                for each in batch:
                    write(each)
                yield len(batch)


def import_(commands: Commands, namespace: str, path: Path) -> Iterator[int]:
    """Put what a file holds into the queues; how many messages are done, step by step.

    Messages keep their ids, levels, times and deduplication keys. A repeat changes nothing for
    those whose records are there, so one that was interrupted is run again.

    Raises:
      BadExport: nothing was imported.
      BrokerConnectionError: what is imported stays.
    """
    digest = checked(path, namespace)
    left = messages(path)
    while batch := list(islice(left, _BATCH)):
        yield _put(commands, digest, batch)


# -- Reading queues ---------------------------------------------------------------------


def _left(commands: Commands, queue: str) -> Iterator[list[Left]]:
    k = commands.keys(queue)
    for level, stream in enumerate(k.ready):
        after = "-"
        while rows := _entries(commands, stream, after):
            after = f"({rows[-1][0].decode()}"
            yield _keyed(commands, queue, [_ready(queue, level, fields) for _, fields in rows])
    outside: tuple[tuple[Place, str, str], ...] = (
        ("scheduled", k.scheduled, k.scheduled_messages),
        ("dead", k.dead, k.dead_messages),
    )
    for place, index, bodies in outside:
        for scored in _scored(commands, index):
            with translated():
                values = commands.client.execute_command("HMGET", bodies, *scored)
            found = [
                _kept(queue, place, id, at_ms, packed)
                for (id, at_ms), packed in zip(scored.items(), values, strict=True)
                if packed is not None
            ]
            yield _keyed(commands, queue, found)


def _entries(commands: Commands, stream: str, after: str) -> list[tuple[bytes, list[bytes]]]:
    client: Any = commands.client
    with translated():
        rows = client.xrange(stream, after, "+", count=_BATCH)
    return [(id, [part for pair in fields.items() for part in pair]) for id, fields in rows]


def _scored(commands: Commands, index: str) -> Iterator[dict[bytes, int]]:
    client: Any = commands.client
    cursor = -1
    while cursor != 0:
        with translated():
            cursor, pairs = client.zscan(index, max(0, cursor), count=_BATCH)
        if pairs:
            yield {id: int(score) for id, score in pairs}


def _ready(queue: str, level: int, parts: list[bytes]) -> Left:
    id = dict(zip(parts[::2], parts[1::2], strict=False)).get(b"id", b"")
    return Left(queue=queue, place="ready", id=entry.escaped(id), level=level, parts=parts)


def _kept(queue: str, place: Place, id: bytes, at_ms: int, packed: bytes) -> Left:
    if place == "dead":
        return Left(queue=queue, place="dead", id=entry.escaped(id), at_ms=at_ms, parts=[packed])
    parts, level = packing.unpack(packed), 0
    if parts[-2:-1] == [b"level"]:
        level, parts = int(parts[-1]), parts[:-2]
    return Left(
        queue=queue, place="scheduled", id=entry.escaped(id), level=level, at_ms=at_ms, parts=parts
    )


def _keyed(commands: Commands, queue: str, left: list[Left]) -> list[Left]:
    """With the deduplication keys that their records name."""
    prefix = commands.keys(queue).job_prefix
    client: Any = commands.client
    waiting = [each for each in left if each.place != "dead" and each.id]
    if not waiting:
        return left
    with translated(), client.pipeline(transaction=False) as pipe:
        for each in waiting:
            pipe.hget(prefix + each.id, "dedup")
        keys = dict(zip((each.id for each in waiting), pipe.execute(), strict=True))
    return [
        msgspec.structs.replace(each, deduplication_key=entry.escaped(keys.get(each.id) or b""))
        for each in left
    ]


# -- Writing queues ---------------------------------------------------------------------


def _put(commands: Commands, digest: str, batch: list[tuple[int, Left]]) -> int:
    for queue in {left.queue for _, left in batch}:
        commands.register(queue)
    now_ms = time_ms(commands.client)
    for number, left in batch:
        token = f"{digest}:{number}"
        if left.place == "dead":
            id = entry.unescaped(left.id)
            commands.adopt(left.queue, id, left.at_ms, left.parts[0])
        elif left.place == "ready":
            commands.enqueue(left.queue, token, [_message(left)], inner=True)
        else:
            delay_ms = max(0, left.at_ms - now_ms)
            commands.schedule(left.queue, token, delay_ms, [_message(left)], inner=True)
    return len(batch)


def _message(left: Left) -> NewMessage:
    fields = dict(zip(left.parts[::2], left.parts[1::2], strict=True))
    actor = fields.get(b"actor", b"").decode("utf-8", "replace")
    claim = Claim(left.deduplication_key) if left.deduplication_key else None
    return NewMessage(left.id, actor, left.level, claim, False, True, list(left.parts))
