"""The end of a delivery, as it is written."""

from __future__ import annotations

from typing import Final

import msgspec

from broker import entry, packing
from broker.clock import LONGEST_DELAY_MS
from broker.delivery import Lease
from broker.outcome import Bury, Cancel, Done, Outcome, Park, Release, Retry

_pack = packing.pack_array
#: What a settlement takes beside what its outcome carries: lease, ids, facts.
_OVERHEAD: Final = 500


class Settlement(msgspec.Struct, frozen=True):
    """The end of one delivery."""

    lease: Lease
    message_id: str
    deduplication_key: str
    outcome: Outcome
    #: What the record will say, field, value, ..., the actor first; None: no record is kept.
    facts: list[str] | None = None
    #: Why this attempt failed; empty when it did not.
    error: str = ""

    @property
    def size(self) -> int:
        """About how many bytes it takes to write it."""
        match self.outcome:
            case Done(content) | Bury(trail=content):
                return _OVERHEAD + len(content)
            case Retry(fields=fields):
                return _OVERHEAD + entry.size(fields)
        return _OVERHEAD

    def packed(self) -> bytes:
        """As ``settle.lua`` reads it.

        Raises:
          TypeError: with this outcome nothing is settled.
        """
        lease = self.lease
        common = (
            *(lease.level, lease.entry_id.decode(), lease.count, lease.consumer),
            *(self.message_id, self.deduplication_key),
            *(False if self.facts is None else packing.packed(self.facts), self.error),
        )
        match self.outcome:
            case Done(b""):
                return packing.pack_plain(("done", *common, ""))
            case Done(result):
                return _pack(("done", *common, result))
            case Retry(delay_ms, level, fields):
                if delay_ms <= 0:
                    return _pack(("retry", *common, 0, fields, "", level))
                kept, delay_ms = packing.pack(fields, level), min(delay_ms, LONGEST_DELAY_MS)
                return _pack(("retry", *common, delay_ms, (), kept, level))
            case Park(delay_ms):
                return _pack(("park", *common, min(delay_ms, LONGEST_DELAY_MS)))
            case Release():
                return _pack(("release", *common))
            case Cancel():
                return _pack(("cancel", *common))
            case Bury(reason, error, actor, error_type, trail, notice, queue):
                evidence = (reason, error, actor, error_type, trail)
                return _pack(("bury", *common, *evidence, notice, queue))
            case outcome:
                raise TypeError(f"{outcome!r} is no settlement")
