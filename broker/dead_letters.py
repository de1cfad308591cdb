"""A queue's dead letters: looking at them, moving them back and dropping them, however many."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dramatiq.common import current_millis

from broker import entry
from broker.commands import Commands
from broker.dead_filter import ANY, DeadFilter
from broker.dead_letter import DeadLetter
from broker.errors import InvalidOption, NotRedriven, translated
from broker.letter_commands import LetterHead, LetterPosition, Redriven
from broker.pace import Pace

#: Heads that one call reads, and the most letters that one page looks at for those it wants.
_BATCH = 200
_LOOKED_AT_PER_PAGE = 5_000
_MOST_GROUPS = 1_000
_BYTES_PER_CALL = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class DeadPage:
    """Some dead letters, the newest first; ``next`` is where to go on, None at the end."""

    letters: list[LetterHead]
    next: str | None


@dataclass(frozen=True, slots=True)
class DeadGroup:
    """How many letters have reason, actor and error type in common. Times of death in unix ms."""

    reason: str
    actor: str
    error_type: str
    count: int
    oldest_ms: int
    newest_ms: int


class DeadLetters:
    """Queries and operator actions over dead letters, in bounded steps whatever their number."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    @property
    def _client(self) -> Any:
        return self._commands.client

    def dead(self, name: str, offset: int = 0, limit: int = 50) -> list[DeadLetter]:
        """One page of the dead letters with their messages, the latest first."""
        k = self._commands.keys(name)
        with translated():
            ids = self._client.zrevrange(k.dead, offset, offset + limit - 1)
        return self._letters(name, [entry.escaped(id) for id in ids])

    def letter(self, name: str, id: str) -> DeadLetter | None:
        """The dead letter of this id; None when it is gone."""
        return next(iter(self._letters(name, [id])), None)

    def died(self, name: str, where: DeadFilter) -> int:
        """How many dead letters are of these ages; the filter's other parts do not count here."""
        k, ages = self._commands.keys(name), where.ages
        now_ms = current_millis()
        oldest = "-inf" if ages.oldest is None else now_ms - ages.oldest
        with translated():
            return int(self._client.zcount(k.dead, oldest, now_ms - ages.youngest))

    def dead_page(
        self, name: str, where: DeadFilter = ANY, *, after: str | None = None, limit: int = 50
    ) -> DeadPage:
        """Up to ``limit`` dead letters without their messages, the newest first.

        A page that had to look at thousands of others is shorter than that, perhaps empty.

        Raises:
          InvalidOption: ``after`` is not the ``next`` of a page.
        """
        found: list[LetterHead] = []
        position, looked_at = _position(after), 0
        while len(found) < limit and looked_at < _LOOKED_AT_PER_PAGE:
            count = min(_BATCH, limit - len(found)) if where is ANY else _BATCH
            _, heads = self._commands.letters(name, where.ages, position, count, newest_first=True)
            if not heads:
                return DeadPage(found, None)
            for head in heads:
                position = head.position
                looked_at += 1
                if where.takes(head):
                    found.append(head)
                    if len(found) == limit:
                        break
        return DeadPage(found, _cursor(position))

    def dead_groups(
        self, name: str, where: DeadFilter = ANY, *, newest: int | None = None
    ) -> list[DeadGroup]:
        """Counts by reason, actor and error type, the largest first: what a redrive would move.

        Beyond a thousand kinds the rest is one group without names. With ``newest``, of about so
        many of the newest letters.
        """
        groups: dict[tuple[str, str, str], DeadGroup] = {}
        batches = self._heads(name, where) if newest is None else self._newest(name, where, newest)
        for heads in batches:
            for head in heads:
                key = (head.reason, head.actor, head.error_type)
                if key not in groups and len(groups) >= _MOST_GROUPS:
                    key = ("", "", "")
                groups[key] = _counted(groups.get(key), key, head.died_at_ms)
        return sorted(groups.values(), key=lambda group: -group.count)

    def redrive(
        self,
        name: str,
        ids: Iterable[str] | None = None,
        *,
        where: DeadFilter = ANY,
        per_second: int | None = None,
    ) -> int:
        """Move dead letters back to their queue as new ones; returns how many moved.

        Those of ``ids``; without them all of ``where`` that were dead when this began, oldest
        first, at most ``per_second``. Each moves in one step: interrupted, or run by two at
        once, it moves nothing twice, and running it again moves the rest. The message keeps its
        id; its attempts begin anew, and its options ``redrives`` and ``redriven_at`` (unix ms)
        say how often it was dead before and when it came back.

        Raises:
          InvalidOption: ``per_second`` is no positive integer.
          NotRedriven: some can't move, and stay; raised once all the others have moved.
        """
        return sum(self.redriving(name, ids, where=where, per_second=per_second))

    def redriving(
        self,
        name: str,
        ids: Iterable[str] | None = None,
        *,
        where: DeadFilter = ANY,
        per_second: int | None = None,
    ) -> Iterator[int]:
        """As :meth:`redrive`, a step at a time: how many moved in each. Stop where you like."""
        pace = Pace(per_second)
        moved, staying = 0, list[str]()
        heads = self._heads(name, where) if ids is None else self._named(name, list(ids))
        for batch in heads:
            for start in range(0, len(batch), pace.batch):
                some = batch[start : start + pace.batch]
                pace.wait(len(some))
                step = self._redrive(name, some, staying)
                moved += step
                yield step
        if staying:
            raise NotRedriven(name, moved, staying)

    def _heads(self, name: str, where: DeadFilter) -> Iterator[list[LetterHead]]:
        """Batches of the letters wanted that are dead now, oldest first."""
        position, ages = None, where.ages
        while True:
            now_ms, heads = self._commands.letters(name, ages, position, _BATCH, newest_first=False)
            if not heads:
                return
            position, ages = heads[-1].position, dataclasses.replace(ages, now_ms=now_ms)
            yield [head for head in heads if where.takes(head)]

    def _newest(self, name: str, where: DeadFilter, count: int) -> Iterator[list[LetterHead]]:
        """Batches of the letters wanted among about so many of the newest."""
        position = None
        for _ in range(-(-count // _BATCH)):
            _, heads = self._commands.letters(name, where.ages, position, _BATCH, newest_first=True)
            if not heads:
                return
            position = heads[-1].position
            yield [head for head in heads if where.takes(head)]

    def _named(self, name: str, ids: Sequence[str]) -> Iterator[list[LetterHead]]:
        k = self._commands.keys(name)
        for start in range(0, len(ids), _BATCH):
            some = ids[start : start + _BATCH]
            with translated(), self._client.pipeline(transaction=False) as pipe:
                for id in some:
                    pipe.hstrlen(k.dead_messages, entry.unescaped(id))
                sizes = pipe.execute()
            yield [LetterHead(id, 0, size) for id, size in zip(some, sizes, strict=True)]

    def _redrive(self, name: str, heads: Sequence[LetterHead], staying: list[str]) -> int:
        """How many moved; those that can't are added to ``staying``."""
        moved = 0
        for some in _by_size(heads):
            by_queue: dict[str, list[Redriven]] = defaultdict(list)
            for letter in self._letters(name, [head.id for head in some]):
                going = letter.redriven()
                if not going.is_entry:
                    staying.append(letter.id)
                    continue
                at_home = going if letter.queue == name else self._at_home(name, letter, going)
                if at_home is not None:
                    by_queue[letter.queue].append(at_home)
            for queue, letters in by_queue.items():
                moved += self._commands.redrive(queue, letters)
        return moved

    def _at_home(self, name: str, letter: DeadLetter, going: Redriven) -> Redriven | None:
        id = self._commands.take_letter_back(name, letter.id, letter.queue)
        return None if id is None else dataclasses.replace(going, key=id)

    def _letters(self, name: str, ids: Sequence[str]) -> list[DeadLetter]:
        if not ids:
            return []
        k = self._commands.keys(name)
        names = [entry.unescaped(id) for id in ids]
        with translated():
            values: Any = self._client.hmget(k.dead_messages, names)
        return [
            DeadLetter.read(name, id, value)
            for id, value in zip(ids, values, strict=True)
            if value is not None
        ]

    def drop_dead(
        self, name: str, ids: Iterable[str] | None = None, *, where: DeadFilter = ANY
    ) -> int:
        """Drop dead letters; returns how many. Which ones, as for :meth:`redrive`."""
        return sum(self.dropping_dead(name, ids, where=where))

    def dropping_dead(
        self, name: str, ids: Iterable[str] | None = None, *, where: DeadFilter = ANY
    ) -> Iterator[int]:
        """As :meth:`drop_dead`, a step at a time: how many went in each. Stop where you like."""
        if ids is not None:
            yield self._commands.drop_dead(name, list(ids))
            return
        for heads in self._heads(name, where):
            yield self._commands.drop_dead(name, [head.id for head in heads])

    def purge_dead(self, name: str, *, older_than_ms: int = 0) -> int:
        """Drop dead letters of at least this age; returns how many."""
        return sum(self.purging_dead(name, older_than_ms=older_than_ms))

    def purging_dead(self, name: str, *, older_than_ms: int = 0) -> Iterator[int]:
        """As :meth:`purge_dead`, a step at a time: how many went in each."""
        dropped = _BATCH
        while dropped == _BATCH:
            dropped = self._commands.sweep(name, older_than_ms, None, _BATCH)
            yield dropped


def _cursor(position: LetterPosition | None) -> str | None:
    if position is None:
        return None
    return f"{position[0]}:{entry.escaped(position[1])}"


def _position(cursor: str | None) -> LetterPosition | None:
    if cursor is None:
        return None
    at, _, id = cursor.partition(":")
    if not (at.isascii() and at.isdigit() and id):
        raise InvalidOption("after", cursor, "must be the `next` of a page")
    return int(at), entry.unescaped(id)


def _counted(group: DeadGroup | None, key: tuple[str, str, str], died_at_ms: int) -> DeadGroup:
    if group is None:
        return DeadGroup(*key, 1, died_at_ms, died_at_ms)
    return dataclasses.replace(
        group,
        count=group.count + 1,
        oldest_ms=min(group.oldest_ms, died_at_ms),
        newest_ms=max(group.newest_ms, died_at_ms),
    )


def _by_size(heads: Sequence[LetterHead]) -> Iterator[list[LetterHead]]:
    """Parts that fit into memory, whatever the size of a message."""
    part: list[LetterHead] = []
    size = 0
    for head in heads:
        if part and size + head.size_bytes > _BYTES_PER_CALL:
            yield part
            part, size = [], 0
        part.append(head)
        size += head.size_bytes
    if part:
        yield part
