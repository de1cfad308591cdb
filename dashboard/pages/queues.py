"""A queue: its jobs by state, its bounds, and what an operator does with it as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from dramatiq_dashboard.http import Response, redirect

from broker.job_record import State
from broker.limits import QueueLimit
from broker.search import By
from dashboard.charts import charts, span
from dashboard.pages.base import Pages, Routes, asked
from dashboard.web import BadRequest, Context, Done, Outcome, PageRequest, action, page


class QueuePages(Pages):
    def routes(self) -> Routes:
        return [
            ("/queues/(?P<queue>[^/]+)/jobs", self.queue),
            ("/actions/pause", self.pause),
            ("/actions/resume", self.resume),
            ("/actions/close", self.close),
            ("/actions/open", self.open),
            ("/actions/limit", self.limit),
        ]

    @page("queue.html")
    def queue(self, request: PageRequest, *, queue: str) -> Context | Response:
        self.known(queue)
        if asked(request, "by") == "id":
            id = asked(request, "for")
            response: Response = redirect(self.app.uri("queues", queue, "job", params={"id": id}))
            return response
        state = _state(asked(request, "state") or State.QUEUED.value)
        after, by, text = (asked(request, name) for name in ("after", "by", "for"))
        wanted = {} if by is None or text is None else {"by": by, "for": text}
        if by is not None and text is not None:
            page = self.broker.search.page(queue, state, cast(By, by), text, after)
        else:
            page = self.broker.jobs.list(queue, state, after)
        samples = self.app.sampler.of(queue)
        return {
            "queue": self.inspector.queue(queue),
            "ended": self.broker.jobs.ended(queue),
            "limit": self.inspector.limit_of(queue),
            "states": list(State),
            "state": state,
            "jobs": page.records,
            "next": page.cursor,
            "more": {"state": state.value, **wanted, "after": page.cursor},
            "wanted": wanted,
            "charts": charts(samples),
            "span": span(samples),
        }

    @action("pause")
    def pause(self, request: PageRequest) -> Done:
        return self._switch(request, self.inspector.pause, "was paused already")

    @action("resume")
    def resume(self, request: PageRequest) -> Done:
        return self._switch(request, self.inspector.resume, "was not paused")

    @action("close")
    def close(self, request: PageRequest) -> Done:
        return self._switch(request, self.inspector.close, "was closed already")

    @action("open")
    def open(self, request: PageRequest) -> Done:
        return self._switch(request, self.inspector.open, "was not closed")

    def _switch(
        self, request: PageRequest, change: Callable[[str], bool], otherwise: Outcome
    ) -> Done:
        queue = self.known(request.form("queue"))
        return Done(self._uri(queue), "done" if change(queue) else otherwise)

    @action("limit")
    def limit(self, request: PageRequest) -> Done:
        queue = self.known(request.form("queue"))
        limit = QueueLimit(
            _count(request, "global_concurrency"),
            _count(request, "rate"),
            _count(request, "per_ms") or 1_000,
        )
        done = self.inspector.limit(queue, limit)
        about = {"global_concurrency": limit.global_concurrency, "rate": limit.rate}
        return Done(
            self._uri(queue), "done" if done else "was so already", about | {"per": limit.per_ms}
        )

    def _uri(self, queue: str) -> str:
        return self.app.uri("queues", queue, "jobs")


def _state(text: str) -> State:
    try:
        return State(text)
    except ValueError:
        raise BadRequest(f"state: there is no state {text!r}") from None


def _count(request: PageRequest, name: str) -> int | None:
    text = request.form(name).strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1_000_000_000):
        raise BadRequest(f"{name}: must be a number of at least 1, or empty; got {text!r}")
    return int(text)
