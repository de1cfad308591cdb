"""What can be said of a failure without its message: the kinds that are counted."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

_unpack = msgspec.msgpack.Decoder(tuple[str, str, str]).decode


@dataclass(frozen=True, slots=True)
class FailureKind:
    """A reason, an actor and an error's type; empty for what is not known."""

    reason: str
    actor: str
    error_type: str

    @classmethod
    def load(cls, packed: bytes) -> FailureKind:
        """The kind by its name in a tally; the scripts see to it that it is ASCII."""
        return cls(*_unpack(packed))
