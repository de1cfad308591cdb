"""A message on its way into a queue."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from broker.entry import Fields


@dataclass(frozen=True, slots=True)
class Claim:
    """A deduplication key, and how long a message holds it."""

    key: str
    #: The longest; 0: as long as the message waits or runs.
    ttl_ms: int = 0
    #: It is held for the whole ttl, also when the message has ended before.
    outlives: bool = False
    #: A scheduled message that holds it is replaced.
    replaces: bool = False


class NewMessage(msgspec.Struct, frozen=True):
    """A message on its way into a queue, encoded."""

    message_id: str
    actor: str
    level: int
    claim: Claim | None
    #: It replaces a message of the same id that this process is running.
    successor: bool
    #: Whether a record of it is kept.
    recorded: bool
    fields: Fields

    @property
    def packed_claim(self) -> tuple[str, int, bool] | bool:
        """As ``admit.lua`` reads it."""
        claim = self.claim
        return False if claim is None else (claim.key, claim.ttl_ms, claim.outlives)
