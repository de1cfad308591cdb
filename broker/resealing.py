"""Messages that wait or are dead, sealed anew by the active key, so that an old one can go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dramatiq.errors import DecodeError

from broker import entry, packing
from broker.codec import Codec
from broker.commands import Commands
from broker.dead_letter import EVIDENCE
from broker.errors import InvalidOption
from broker.operator_commands import Kept
from broker.sealing import NotOpened

_PLACES: Final[tuple[Kept, ...]] = ("scheduled", "dead")


@dataclass(frozen=True, slots=True)
class Resealed:
    """What one step did. ``next`` is where to go on, None at the end."""

    resealed: int
    #: Left as they are: there is no key for them here, or they are not genuine.
    not_opened: int
    next: str | None


class Resealer:
    """Walks over a queue's scheduled messages and dead letters, in bounded steps.

    What is sealed by the active key already stays as it is, so a walk that was interrupted can
    begin anew. A message that moves meanwhile is not touched; it is on its way to be run.
    """

    def __init__(self, commands: Commands, codec: Codec) -> None:
        self._commands = commands
        self._codec = codec

    def step(self, queue: str, after: str | None = None, *, limit: int = 1_000) -> Resealed:
        """Look at about ``limit`` messages from ``after`` on, the ``next`` of the step before.

        Raises:
          InvalidOption: ``after`` is not the ``next`` of a step.
          SealingFailed: nothing here can encrypt.
        """
        kept, cursor = _position(after)
        following, ids = self._commands.kept_ids(queue, kept, cursor, limit)
        resealed = not_opened = 0
        for id in ids:
            try:
                resealed += self._reseal(queue, kept, id)
            except (NotOpened, DecodeError):
                not_opened += 1
        return Resealed(resealed, not_opened, _next(kept, following))

    def _reseal(self, queue: str, kept: Kept, id: bytes) -> bool:
        # One at a time: each may be as large as a message may be.
        packed = self._commands.kept_value(queue, kept, id)
        if packed is None:
            return False
        parts = packing.unpack(packed)
        head = EVIDENCE if kept == "dead" else 0
        evidence, fields = (entry.to_mapping(each) for each in (parts[:head], parts[head:]))
        if b"sealed" not in fields:
            return False
        found = (fields[b"sealed"], evidence.get(b"trail", b""))
        belongs_to = evidence.get(b"queue", b"").decode() or queue
        renewed = self._codec.resealed(belongs_to, fields, found[1])
        if renewed == found:
            return False
        fields[b"sealed"] = renewed[0]
        if evidence:
            evidence[b"trail"] = renewed[1]
        flat = [part for pair in (*evidence.items(), *fields.items()) for part in pair]
        return self._commands.replace(queue, kept, id, packed, packing.pack_array(flat))


def _position(after: str | None) -> tuple[Kept, int]:
    if after is None:
        return _PLACES[0], 0
    name, _, cursor = after.partition(":")
    for kept in _PLACES:
        if kept == name and cursor.isascii() and cursor.isdigit():
            return kept, int(cursor)
    raise InvalidOption("after", after, "must be the `next` of a step")


def _next(kept: Kept, cursor: int) -> str | None:
    if cursor:
        return f"{kept}:{cursor}"
    return None if kept == _PLACES[-1] else f"{_PLACES[-1]}:0"
