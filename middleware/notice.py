"""A notice of failures: how many, where, of what. Never a message, never what an error said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import msgspec

from broker.failures import FailureKind

_MOST_LISTED = 50


class Failures(msgspec.Struct, frozen=True, rename="camel"):
    """All failures of one kind on one queue; "" for what is not known or has none."""

    queue: str
    reason: str
    actor: str
    error_type: str
    count: int


class Notice(msgspec.Struct, frozen=True):
    """What failed since the notice before."""

    namespace: str
    total: int
    #: The most frequent kinds, at most 50, most frequent first.
    failures: list[Failures]
    #: Failures of the kinds that are not listed.
    others: int
    id: str = msgspec.field(default_factory=lambda: str(uuid4()))

    @classmethod
    def of(cls, namespace: str, counts: Mapping[str, Mapping[FailureKind, int]]) -> Notice:
        """The notice of these counts by queue."""
        rows = [
            Failures(queue, kind.reason, kind.actor, kind.error_type, count)
            for queue, kinds in counts.items()
            for kind, count in kinds.items()
        ]
        rows.sort(key=lambda row: -row.count)
        listed = rows[:_MOST_LISTED]
        total = sum(row.count for row in rows)
        return cls(namespace, total, listed, total - sum(row.count for row in listed))

    @property
    def subject(self) -> str:
        """One line."""
        return f"[{self.namespace}] {_counted(self.total)}"

    @property
    def text(self) -> str:
        """A line a kind."""
        lines = [
            f"{row.count:>9,}  {'  '.join(filter(None, (row.queue, *_said(row))))}"
            for row in self.failures
        ]
        if self.others:
            lines.append(f"{self.others:>9,}  of other kinds")
        return "\n".join([f"{_counted(self.total)} since the last notice:", "", *lines, ""])

    def asdict(self) -> dict[str, Any]:
        """The notice as JSON's own types, its text among them."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return {**fields, "text": f"{self.subject}\n{self.text}"}


def _said(row: Failures) -> tuple[str, str, str]:
    return row.reason, row.actor, row.error_type


def _counted(total: int) -> str:
    return f"{total:,} failure{'' if total == 1 else 's'}"
