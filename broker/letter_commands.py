"""Dead letters: the scripts that read, move and drop them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from broker import entry, packing
from broker.entry import Fields
from broker.moving import move_letter
from broker.runner import Runner

# Of an entry that a script writes, fields and values; bounds.lua has the same.
_MOST_PARTS = 7_000


@dataclass(frozen=True, slots=True)
class Redriven:
    """A dead letter on its way back; ``key`` is its name among the dead."""

    key: str
    #: Empty for what is no message.
    message_id: str
    level: int
    deduplication_key: str
    fields: Fields | list[bytes]
    #: Its place in a flow; empty for none.
    flow: str = ""

    @property
    def is_entry(self) -> bool:
        """Whether a script can write it: another client's entry may have had too many fields."""
        return 0 < len(self.fields) <= _MOST_PARTS


#: A place among the dead: time of death, then id.
LetterPosition: TypeAlias = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class LetterAges:
    """Times since death in ms, both included; measured from ``now_ms``, None for the call's own."""

    now_ms: int | None = None
    oldest: int | None = None
    youngest: int = 0


@dataclass(frozen=True, slots=True)
class LetterHead:
    """A dead letter without its message. ``reason`` is empty when it can't be read."""

    id: str
    died_at_ms: int
    #: Of evidence and message together.
    size_bytes: int
    reason: str = ""
    error: str = ""
    deliveries: int = 0
    level: int = 0
    deduplication_key: str = ""
    actor: str = ""
    error_type: str = ""

    @property
    def position(self) -> LetterPosition:
        return self.died_at_ms, entry.unescaped(self.id)


class LetterCommands(Runner):
    """A part of :class:`broker.commands.Commands`."""

    def adopt(self, queue: str, id: bytes, died_at_ms: int, letter: bytes) -> bytes:
        """Take a dead letter as it lay elsewhere; returns its id here. A repeat changes nothing."""
        k = self.keys(queue)
        taken: bytes = self._run("adopt", (k.dead, k.dead_messages), id, died_at_ms, "", letter)
        return taken

    def redrive(self, queue: str, letters: Iterable[Redriven]) -> int:
        """Move dead letters back, which are entries; returns how many of them were still there."""
        k = self.keys(queue)
        keys = (
            *(k.dead, k.dead_messages, k.control, k.wake, k.dedup, k.job_prefix),
            *(k.events, k.recent("dead"), k.lapsing, *k.ready),
        )
        packed = [
            packing.pack_array(
                (
                    *(it.key, it.message_id, self._present(it.level)),
                    *(it.deduplication_key, it.fields, it.flow),
                )
            )
            for it in letters
        ]
        return int(self._run("redrive", keys, *packed))

    def _present(self, level: int) -> int:
        # max_priority may have been higher when the message was kept with its level.
        return min(level, self._max_priority)

    def sweep(self, queue: str, age_ms: int, count: int | None, limit: int) -> int:
        """Drop up to ``limit`` dead letters of at least ``age_ms`` or beyond the newest ``count``.

        Returns how many.
        """
        k = self.keys(queue)
        kept = -1 if count is None else count
        return int(self._run("sweep", (k.dead, k.dead_messages), age_ms, kept, limit))

    def take_letter_back(self, queue: str, id: str, to: str) -> str | None:
        """Move a dead letter to those of the queue that it belongs to; its id there."""
        name = entry.unescaped(id)
        moved = move_letter(self._run, self.client, self.keys(queue), self.keys(to), name, "")
        return None if moved is None else entry.escaped(moved)

    def drop_dead(self, queue: str, ids: Sequence[str]) -> int:
        """Drop dead letters; returns how many of them were still there."""
        k = self.keys(queue)
        names = (entry.unescaped(id) for id in ids)
        return int(self._run("drop_dead", (k.dead, k.dead_messages), *names))

    def letters(
        self,
        queue: str,
        ages: LetterAges,
        after: LetterPosition | None,
        limit: int,
        *,
        newest_first: bool,
    ) -> tuple[int, list[LetterHead]]:
        """The server's time and up to ``limit`` letters that follow ``after``; none: the end."""
        k = self.keys(queue)
        offset = 0
        while True:  # more than one round when that many died in one millisecond
            now_ms, rows = self._run(
                "letters",
                (k.dead, k.dead_messages),
                ages.now_ms or 0,
                -1 if ages.oldest is None else ages.oldest,
                ages.youngest,
                -1 if after is None else after[0],
                int(newest_first),
                offset,
                limit,
            )
            heads = [_head(row) for row in rows]
            fresh = [
                head
                for head in heads
                if after is None
                or (head.position < after if newest_first else head.position > after)
            ]
            if fresh or len(heads) < limit:
                return now_ms, fresh
            offset += limit


def _head(row: list[Any]) -> LetterHead:
    id, died_at_ms, size, *values = row
    name = entry.escaped(id)
    if not values:
        return LetterHead(name, died_at_ms, size)
    reason, error, _, deliveries, level, dedup, actor, error_type = (
        value.decode("utf-8", "replace") for value in values
    )
    return LetterHead(
        *(name, died_at_ms, size, reason, error, int(deliveries), int(level)),
        *(dedup, actor, error_type),
    )
