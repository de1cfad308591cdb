"""Failures that are counted, and whose turn it is to tell of them."""

from __future__ import annotations

from collections.abc import Mapping

from broker import packing
from broker.errors import translated
from broker.failures import FailureKind
from broker.keys import leader_key, notices_key
from broker.runner import Runner


class NoticeCommands(Runner):
    """A part of :class:`broker.commands.Commands`."""

    def tally(self, queue: str, limit: int) -> bool:
        """Count about ``limit`` new dead letters into the queue's tally; True if more are there."""
        k = self.keys(queue)
        return bool(self._run("tally", (k.dead, k.dead_messages, k.tally), limit))

    def tallied(self, queue: str) -> dict[FailureKind, int]:
        """What was counted and not reported yet: some 200 kinds at the most."""
        with translated():
            pairs = self.client.execute_command("HGETALL", self.keys(queue).tally)
        if isinstance(pairs, dict):  # a cluster's client converts
            pairs = [part for pair in pairs.items() for part in pair]
        counts = zip(pairs[::2], pairs[1::2], strict=True)
        return {FailureKind.load(kind): int(n) for kind, n in counts if kind != b"cursor"}

    def count_failures(self, queue: str, counts: Mapping[FailureKind, int]) -> None:
        """Add to the queue's tally, or take off it what is negative."""
        packed = [
            packing.pack_array((kind.reason, kind.actor, kind.error_type, n))
            for kind, n in counts.items()
        ]
        if packed:
            self._run("count", (self.keys(queue).tally,), *packed)

    def take_turn(self, holder: str, lease_ms: int, longest_ms: int) -> int:
        """Take the turn to send a notice: 0, or the ms until it may be taken."""
        key = notices_key(self.namespace)
        return int(self._run("take_turn", (key,), holder, lease_ms, longest_ms))

    def end_turn(self, holder: str, pause_ms: int) -> bool:
        """Give the turn back, the next one after ``pause_ms``; False if somebody else has it."""
        return bool(self._run("end_turn", (notices_key(self.namespace),), holder, pause_ms))

    def lead(self, what: str, name: str, lasts_ms: int) -> bool:
        """Be the one process of all that does ``what``, for ``lasts_ms``; False: another one is.

        Asked again in time by the same ``name``, it goes on.
        """
        return bool(self._run("lead", (leader_key(self.namespace, what),), name, lasts_ms))
