"""What is left in queues, to a file and from one; what is encrypted stays so."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec

from broker import entry
from broker.commands import Commands
from broker.dead_letter import EVIDENCE
from broker.errors import HeadraceError, translated
from broker.new_message import Claim, NewMessage
from broker.server import time_ms

Place: TypeAlias = Literal["ready", "scheduled", "dead"]

FORMAT: Final = "headrace-export"
_VERSION: Final = 1
_BATCH: Final = 200


class BadExport(HeadraceError, ValueError):
    """The file is no export, is incomplete, or is not for this namespace; nothing was imported."""


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """One message that is left: a line of the file. ``parts`` are the entry's bytes."""

    queue: str
    place: Place
    id: str
    level: int = 0
    #: Unix ms; of a scheduled one when it is due, of a dead one when it died.
    at_ms: int = 0
    deduplication_key: str = ""
    parts: list[bytes]


def export(commands: Commands, namespace: str, queues: Iterable[str], path: Path) -> Iterator[int]:
    """Write everything that waits, runs or is dead to a file; how many messages, step by step.

    Nothing is taken out of the queues, so do it when nothing runs and nothing is sent any more.
    The file appears when it is complete, closed to others: it holds what is in the queues.

    Raises:
      BrokerConnectionError, OSError: there is no file.
    """
    handle, name = tempfile.mkstemp(dir=path.resolve().parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            header = {"format": FORMAT, "version": _VERSION, "namespace": namespace}
            _write(file, header)
            count = 0
            for queue in queues:
                for batch in _left(commands, queue):
                    for each in batch:
                        _write(file, _line(each))
                    count += len(batch)
                    yield len(batch)
            _write(file, {"end": count})
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def import_(commands: Commands, namespace: str, path: Path) -> Iterator[int]:
    """Put what a file holds into the queues; how many lines are done, step by step.

    Messages keep their ids, levels, times and deduplication keys. A repeat changes nothing for
    those whose records are there, so one that was interrupted is run again.

    Raises:
      BadExport: nothing was imported.
      BrokerConnectionError: what is imported stays.
    """
    digest = _checked(path, namespace)
    with path.open(encoding="ascii") as file:
        next(file)
        batch: list[tuple[int, Left]] = []
        for number, text in enumerate(file, 2):
            found = json.loads(text)
            if "end" in found:
                break
            batch.append((number, _read(found)))
            if len(batch) == _BATCH:
                yield _put(commands, digest, batch)
                batch = []
        if batch:
            yield _put(commands, digest, batch)


def count(path: Path) -> int:
    """How many messages an export holds.

    Raises:
      BadExport: it is none, or incomplete.
    """
    return int(_last_line(path)["end"])


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
    for place, index, messages in outside:
        for scored in _scored(commands, index):
            with translated():
                values = commands.client.execute_command("HMGET", messages, *scored)
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
    parts, level = entry.unpack(packed), 0
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


# -- The file ---------------------------------------------------------------------------


def _write(file: Any, value: object) -> None:
    file.write(json.dumps(value, separators=(",", ":")) + "\n")


def _line(left: Left) -> dict[str, Any]:
    told: dict[str, Any] = {"queue": left.queue, "place": left.place, "id": left.id}
    if left.level:
        told["level"] = left.level
    if left.at_ms:
        told["at_ms"] = left.at_ms
    if left.deduplication_key:
        told["deduplication_key"] = left.deduplication_key
    return {**told, "parts": [_shown(part) for part in left.parts]}


def _shown(part: bytes) -> str | dict[str, str]:
    """Text where it is some: the file is read by people too."""
    try:
        return part.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(part).decode()}


def _read(line: dict[str, Any]) -> Left:
    parts = [
        part.encode() if isinstance(part, str) else base64.b64decode(part["base64"])
        for part in line.pop("parts")
    ]
    return Left(parts=parts, **line)


def _checked(path: Path, namespace: str) -> str:
    """The digest that names the file, if all of it is there and good."""
    end, digest = count(path), hashlib.sha256()
    sealed = lines = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file):
            digest.update(raw)
            try:
                found = json.loads(raw)
                if number == 0:
                    header = found
                elif "end" not in found:
                    sealed += _is_sealed(_read(found))
                    lines += 1
            except (ValueError, TypeError, KeyError) as error:
                raise BadExport(f"{path}: line {number + 1} is none of an export") from error
    if lines != end:
        raise BadExport(f"{path}: must have {end} messages, has {lines}")
    if sealed and header["namespace"] != namespace:
        rule = f"its {sealed} encrypted messages are bound to namespace {header['namespace']!r}"
        raise BadExport(f"{path}: {rule}, not {namespace!r}")
    return digest.hexdigest()[:16]


def _is_sealed(left: Left) -> bool:
    parts = entry.unpack(left.parts[0])[EVIDENCE:] if left.place == "dead" else left.parts
    return b"sealed" in parts[::2]


def _last_line(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            header = json.loads(file.readline())
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 100))
            last = json.loads(file.read().splitlines()[-1])
    except (OSError, ValueError, IndexError) as error:
        raise BadExport(f"{path}: can't be read as an export ({error})") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise BadExport(f"{path}: is no export")
    if header.get("version") != _VERSION:
        raise BadExport(f"{path}: version must be {_VERSION}, is {header.get('version')!r}")
    if not isinstance(last, dict) or type(last.get("end")) is not int:
        raise BadExport(f"{path}: its end is missing: it was cut")
    return last
