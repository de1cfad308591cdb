"""Dead letters: by kind, filtered, sent back or dropped, one or all of a filter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast, get_args

from broker.dead_filter import DeadFilter
from broker.evidence import Reason
from dashboard.pages.base import Pages, Routes, asked
from dashboard.tasks import Task
from dashboard.web import BadRequest, Context, Done, PageRequest, action, page

#: The newest letters that the page counts by kind.
COUNTED: Final = 3_000
_FASTEST: Final = 100_000


class DeadPages(Pages):
    def routes(self) -> Routes:
        return [
            ("/queues/(?P<queue>[^/]+)/dead", self.dead),
            ("/actions/redrive-all", self.redrive),
            ("/actions/delete-all", self.delete),
            ("/actions/stop", self.stop),
        ]

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
            "chosen": (where.reason or "", where.actor or "", where.error_type or ""),
            "tasks": self.app.tasks.of(queue),
        }

    @action("redrive all")
    def redrive(self, request: PageRequest) -> Done:
        queue, where = self.known(request.form("queue")), filter_of(request.post_data)
        steps = self.inspector.redriving(queue, where=where, per_second=_pace(request))
        return self._begin(request, "redrive all", queue, where, steps)

    @action("delete all")
    def delete(self, request: PageRequest) -> Done:
        queue, where = self.known(request.form("queue")), filter_of(request.post_data)
        if request.post_data.get("sure") != "yes":
            raise BadRequest("sure: must be checked: what is deleted is gone")
        steps = self.inspector.dropping_dead(queue, where=where)
        return self._begin(request, "delete all", queue, where, steps)

    def _begin(
        self,
        request: PageRequest,
        verb: str,
        queue: str,
        where: DeadFilter,
        steps: Iterator[int],
    ) -> Done:
        user = "" if request.user is None else request.user.name
        total = self.inspector.died(queue, where)
        task = Task(verb, queue, given(where), user, request.address, total)
        self.app.tasks.begin(task, steps)
        uri = self.app.uri("queues", queue, "dead", params=given(where))
        return Done(uri, "begun", {"task": task.id, **given(where)})

    @action("stop")
    def stop(self, request: PageRequest) -> Done:
        task = self.app.tasks.stop(request.form("task"))
        if task is None:
            raise BadRequest("task: there is no such task", "404 Not Found")
        return Done(self.app.uri("queues", task.queue, "dead"), "asked", {"task": task.id})


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


def _pace(request: PageRequest) -> int | None:
    text = request.post_data.get("per_second", "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _FASTEST):
        raise BadRequest(f"per_second: must be a number from 1 to {_FASTEST}, got {text!r}")
    return int(text)


def _minutes(values: dict[str, str], name: str) -> int | None:
    text = values.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and int(text) < 100_000_000):
        raise BadRequest(f"{name}: must be a number of minutes, got {text!r}")
    return int(text) * 60_000
