"""Dead letters: by kind, filtered, sent back or dropped, one or all of a filter."""

from __future__ import annotations

from typing import Any, cast, get_args

from broker.dead_letters import DeadFilter
from broker.evidence import Reason
from dashboard.pages.base import Pages, Routes, asked
from dashboard.web import BadRequest, Context, PageRequest, page

#: The newest letters that the page counts by kind.
COUNTED = 5_000


class DeadPages(Pages):
    def routes(self) -> Routes:
        return [("/queues/(?P<queue>[^/]+)/dead", self.dead)]

    @page("dead.html")
    def dead(self, request: PageRequest, *, queue: str) -> Context:
        self.known(queue)
        where = filter_of(request.params)
        found = self.inspector.dead_page(queue, where, after=asked(request, "after"))
        return {
            "queue": self.inspector.queue(queue),
            "letters": found.letters,
            "next": found.next,
            "groups": self.inspector.dead_groups(queue, newest=COUNTED),
            "counted": COUNTED,
            "reasons": get_args(Reason),
            "where": given(where),
        }


def filter_of(values: dict[str, str]) -> DeadFilter:
    """The filter of a form or an address.

    Raises:
      BadRequest, InvalidOption: a part of it breaks its rule.
    """
    return DeadFilter(
        reason=cast(Reason, values.get("reason") or None),
        actor=values.get("actor") or None,
        error_type=values.get("error_type") or None,
        error=values.get("error") or None,
        older_than_ms=_minutes(values, "older_than_min"),
        younger_than_ms=_minutes(values, "younger_than_min"),
    )


def given(where: DeadFilter) -> dict[str, Any]:
    """The filter as :func:`filter_of` reads it, without what is any."""
    ages = {
        name: None if age is None else age // 60_000
        for name, age in (
            ("older_than_min", where.older_than_ms),
            ("younger_than_min", where.younger_than_ms),
        )
    }
    parts = {
        "reason": where.reason,
        "actor": where.actor,
        "error_type": where.error_type,
        "error": where.error,
        **ages,
    }
    return {name: value for name, value in parts.items() if value is not None}


def _minutes(values: dict[str, str], name: str) -> int | None:
    text = values.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and int(text) < 100_000_000):
        raise BadRequest(f"{name}: must be a number of minutes, got {text!r}")
    return int(text) * 60_000
