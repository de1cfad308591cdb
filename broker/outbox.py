"""Letters: what the end of a flow's message leaves to do in another slot, or later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

#: send: messages for a queue. end: of a message, for its flow. release: the rest of a large step.
#: bury: a dead letter, for another queue's.
Kind: TypeAlias = Literal["send", "end", "release", "bury"]

_KINDS: Final[dict[bytes, Kind]] = {
    b"send": "send",
    b"end": "end",
    b"release": "release",
    b"bury": "bury",
}


@dataclass(frozen=True, slots=True)
class Letter:
    """One entry of a queue's outbox; it stays there until what it asks for is done."""

    id: bytes
    kind: Kind
    #: send: a queue, empty for the outbox's own. end: a :class:`Place`. release: a flow's id.
    #: bury: a queue.
    to: str
    #: For the script that does it; bury: the id of the dead letter.
    body: bytes

    @classmethod
    def read(cls, row: list[bytes]) -> Letter:
        """From a script's reply."""
        id, kind, to, body = row
        return cls(id, _KINDS[kind], to.decode(), body)

    @property
    def written_at_ms(self) -> int:
        """Unix ms by the server's clock."""
        return int(self.id.partition(b"-")[0])


@dataclass(frozen=True, slots=True)
class Place:
    """Where a message belongs: its flow, its step and its number in the flow.

    Written into the message's record and options, as ``{ns:queue}:flow:<id>/<step>/<number>``.
    """

    home: str
    flow_id: str
    step: int
    number: int

    @classmethod
    def parse(cls, namespace: str, text: str) -> Place:
        """The inverse of the writing.

        Raises:
          ValueError: it is not of this namespace, or no place at all.
        """
        start, (tag, _, rest) = f"{{{namespace}:", text.partition("}:flow:")
        flow_id, step, number = rest.rsplit("/", 2)
        if not tag.startswith(start) or not flow_id:
            raise ValueError(f"no place of a flow in namespace {namespace!r}: {text!r}")
        return cls(tag.removeprefix(start), flow_id, int(step), int(number))


def flow_of(place: str) -> str | None:
    """The id of the flow that the text of a place names; None for what is none."""
    flow_id = place.partition("}:flow:")[2].rsplit("/", 2)[0]
    return flow_id or None
