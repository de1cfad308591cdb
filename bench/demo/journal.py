"""What the workers did, written by them and read by the demo: one JSON line an event.

A file and not Redis, so that the record neither loads the server under test nor shares
its fate. Each line is one write to a file opened for appending, so lines of several
processes don't mix and what was written before a SIGKILL stays.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

SETTLE_WINDOW_MS = 1_000
"""A job that ended this short before its worker was killed may not have been settled."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something a worker process did; times are unix ms."""

    kind: Literal["boot", "start", "done", "failed", "interrupted", "noted"]
    at_ms: int
    pid: int
    message_id: str = ""
    queue: str = ""
    error: str = ""
    #: What the job itself says, of the kind `noted`.
    note: str = ""


class JournalWriter:
    """Appends events; the file is opened at the first one, so after the fork."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._pid = 0

    def write(self, event: Event) -> None:
        """Put one line there, in one write; survives the death of this process."""
        if self._file is None or self._pid != os.getpid():
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            self._pid = os.getpid()
        os.write(self._file, msgspec.json.encode(event) + b"\n")


class JournalReader:
    """Reads what has been appended since the last call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""

    def read(self) -> list[Event]:
        """The new events; an unfinished line waits for the next call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [msgspec.json.decode(line, type=Event) for line in lines]


@dataclass
class History:
    """All events so far, by message."""

    #: When processes were ready to take jobs, unix ms.
    boots: list[int] = field(default_factory=list)
    starts: dict[str, list[Event]] = field(default_factory=dict)
    ends: dict[str, list[Event]] = field(default_factory=dict)
    notes: dict[str, list[Event]] = field(default_factory=dict)

    def add(self, events: Iterable[Event]) -> None:
        """Take in more events, in the order they were written."""
        for event in events:
            if event.kind == "boot":
                self.boots.append(event.at_ms)
            elif event.kind == "start":
                self.starts.setdefault(event.message_id, []).append(event)
            elif event.kind == "noted":
                self.notes.setdefault(event.message_id, []).append(event)
            else:
                self.ends.setdefault(event.message_id, []).append(event)

    def booted(self, since_ms: int) -> int:
        """How many processes have become ready since."""
        return sum(at_ms >= since_ms for at_ms in self.boots)

    def done(self, message_id: str) -> bool:
        """Whether one execution of it came to a good end."""
        return any(end.kind == "done" for end in self.ends.get(message_id, ()))

    def failures(self, message_id: str) -> int:
        """Executions that raised."""
        return sum(end.kind == "failed" for end in self.ends.get(message_id, ()))

    def noted_ms(self, message_id: str, note: str) -> list[int]:
        """When the job said so, by its own clock."""
        return [event.at_ms for event in self.notes.get(message_id, ()) if event.note == note]

    def first_start_ms(self, message_id: str) -> int | None:
        """When it was first started; None: never."""
        starts = self.starts.get(message_id)
        return min(event.at_ms for event in starts) if starts else None

    def kills(self, killers: Iterable[str]) -> dict[int, int]:
        """The processes that ran a killer -> when, which is when they died."""
        return {
            start.pid: start.at_ms for killer in killers for start in self.starts.get(killer, ())
        }

    def in_flight_at(self, kills: dict[int, int]) -> set[str]:
        """Messages that a killed process had started and perhaps not settled.

        Only these may take effect a second time. A job counts until `SETTLE_WINDOW_MS`
        after its end, since its acknowledgement may have died with the process.
        """
        found = set()
        for message_id, starts in self.starts.items():
            for start in starts:
                died_ms = kills.get(start.pid)
                if died_ms is None:
                    continue
                ends = [end for end in self.ends.get(message_id, ()) if end.pid == start.pid]
                if not ends or max(end.at_ms for end in ends) >= died_ms - SETTLE_WINDOW_MS:
                    found.add(message_id)
        return found
