"""Which jobs of a queue are in a state, in pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import redis

from broker.commands import Commands
from broker.errors import InvalidOption, translated
from broker.job_record import State
from broker.keys import GROUP, QueueKeys

BEGINNING: Final = "-"
_RULE: Final = "must come from the page before"
_OFFSET: Final = re.compile(r"[0-9]{1,18}")
_LEVEL_AND_ENTRY: Final = re.compile(r"([0-9]{1,3}):([0-9]{1,20}-[0-9]{1,20})")


class Listing:
    """One page of the ids of a queue's jobs, by state."""

    def __init__(self, commands: Commands, queue: str, limit: int) -> None:
        self._client: Any = commands.client
        self._keys: QueueKeys = commands.keys(queue)
        self._limit = limit

    def page(self, state: State, cursor: str | None) -> tuple[list[str], str | None]:
        with translated():
            match state:
                case State.COMPLETED | State.DEAD | State.CANCELLED:
                    return self._ranked(self._keys.recent(state.value), cursor, latest_first=True)
                case State.SCHEDULED | State.RETRYING:
                    return self._ranked(self._keys.scheduled, cursor, latest_first=False)
                case State.QUEUED:
                    return self._levels(cursor, self._waiting)
                case State.RUNNING:
                    return self._levels(cursor, self._in_flight)

    def _ranked(
        self, index: str, cursor: str | None, *, latest_first: bool
    ) -> tuple[list[str], str | None]:
        start = offset_in(cursor)
        ids = self._client.zrange(index, start, start + self._limit - 1, desc=latest_first)
        following = str(start + len(ids)) if len(ids) == self._limit else None
        return [id.decode() for id in ids], following

    def _levels(
        self,
        cursor: str | None,
        read: Callable[[str, str, int], list[tuple[bytes, str | None]]],
    ) -> tuple[list[str], str | None]:
        """Go through the levels, the highest first; a cursor is ``level:entry id``."""
        level, start = level_and_start(cursor, len(self._keys.ready) - 1)
        ids: list[str] = []
        while level >= 0:
            rows = read(self._keys.ready[level], start, self._limit - len(ids))
            ids += [id for _, id in rows if id]
            if len(ids) >= self._limit or (rows and len(rows) >= self._limit):
                return ids, f"{level}:{rows[-1][0].decode()}"
            level, start = level - 1, BEGINNING
        return ids, None

    def _waiting(self, stream: str, start: str, limit: int) -> list[tuple[bytes, str | None]]:
        entries = self._client.xrange(stream, start, "+", count=limit)
        return [(entry_id, _message_id(fields)) for entry_id, fields in entries]

    def _in_flight(self, stream: str, start: str, limit: int) -> list[tuple[bytes, str | None]]:
        try:
            pending = self._client.xpending_range(stream, GROUP, start, "+", limit)
        except redis.ResponseError as error:
            if not str(error).startswith("NOGROUP"):  # no worker has looked at this level yet
                raise
            return []
        ids = [row["message_id"] for row in pending]
        pipe = self._client.pipeline(transaction=False)
        for entry_id in ids:
            pipe.xrange(stream, entry_id, entry_id)
        found = pipe.execute() if ids else []
        return [
            (entry_id, _message_id(entries[0][1]) if entries else None)
            for entry_id, entries in zip(ids, found, strict=True)
        ]


def offset_in(cursor: str | None) -> int:
    """How many were on the pages before.

    Raises:
      InvalidOption: the cursor is not from one of them; so below.
    """
    if cursor is None:
        return 0
    return int(_match(_OFFSET, cursor)[0])


def level_and_start(cursor: str | None, highest: int) -> tuple[int, str]:
    """The level, and where in its stream to go on: ``-``, or ``(`` and an entry's id."""
    if cursor is None:
        return highest, BEGINNING
    level, entry_id = _match(_LEVEL_AND_ENTRY, cursor).groups()
    if int(level) > highest:
        raise InvalidOption("cursor", cursor, _RULE)
    return int(level), f"({entry_id}"


def _match(pattern: re.Pattern[str], cursor: str) -> re.Match[str]:
    found = pattern.fullmatch(cursor)
    if found is None:
        raise InvalidOption("cursor", cursor, _RULE)
    return found


def _message_id(fields: Mapping[bytes, bytes]) -> str | None:
    id = fields.get(b"id")
    return None if id is None else id.decode("utf-8", "replace")
