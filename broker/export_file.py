"""The file of an export: a header, a line of JSON for each message, and their number at the end."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec

from broker import packing
from broker.dead_letter import EVIDENCE
from broker.errors import HeadraceError

Place: TypeAlias = Literal["ready", "scheduled", "dead"]

_FORMAT: Final = "headrace-export"
_VERSION: Final = 1


class BadExport(HeadraceError, ValueError):
    """The file is no export, is incomplete, or is not for this namespace; nothing was imported."""


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """One message that is left. ``parts`` are its entry's bytes."""

    queue: str
    place: Place
    id: str
    level: int = 0
    #: Unix ms; of a scheduled one when it is due, of a dead one when it died.
    at_ms: int = 0
    deduplication_key: str = ""
    parts: list[bytes]


@contextmanager
def written(path: Path, namespace: str) -> Iterator[Callable[[Left], None]]:
    """Gives what writes one message; the file is there when all are, closed to others."""
    try:
        handle, name = tempfile.mkstemp(dir=path.resolve().parent, prefix=f".{path.name}.")
    except OSError as error:  # it would name a file that nobody has asked for
        raise type(error)(error.errno, error.strerror, str(path)) from error
    count = 0

    def write(left: Left) -> None:
        nonlocal count
        _write(file, _line(left))
        count += 1

    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            _write(file, {"format": _FORMAT, "version": _VERSION, "namespace": namespace})
            yield write
            _write(file, {"end": count})
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def messages(path: Path) -> Iterator[tuple[int, Left]]:
    """The messages of a file that is checked, with the numbers of their lines."""
    with path.open(encoding="ascii") as file:
        next(file)
        for number, text in enumerate(file, 2):
            found = json.loads(text)
            if "end" in found:
                return
            yield number, _read(found)


def count(path: Path) -> int:
    """How many messages an export holds.

    Raises:
      BadExport: it is none, or incomplete.
    """
    return int(_last_line(path)["end"])


def checked(path: Path, namespace: str) -> str:
    """The digest that names the file, if all of it is there and good.

    Raises:
      BadExport: it is not.
    """
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
    parts = packing.unpack(left.parts[0])[EVIDENCE:] if left.place == "dead" else left.parts
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
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise BadExport(f"{path}: is no export")
    if header.get("version") != _VERSION:
        raise BadExport(f"{path}: version must be {_VERSION}, is {header.get('version')!r}")
    if not isinstance(last, dict) or type(last.get("end")) is not int:
        raise BadExport(f"{path}: its end is missing: it was cut")
    return last


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
