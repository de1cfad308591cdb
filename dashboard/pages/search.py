"""Jobs of all queues and states, by id or by what they are about."""

from __future__ import annotations

from typing import Final, cast

from dramatiq_dashboard.http import Response, redirect

from broker.job_record import JobRecord, State
from broker.search import By
from dashboard.pages.base import Pages, Routes, asked, beginning
from dashboard.web import Context, PageRequest, page

#: Of each queue and state.
_SHOWN: Final = 10
#: That one page looks at.
_QUEUES: Final = 10
_STATES: Final = (
    State.RUNNING,
    State.QUEUED,
    State.SCHEDULED,
    State.RETRYING,
    State.COMPLETED,
    State.DEAD,
    State.CANCELLED,
)


class SearchPages(Pages):
    def routes(self) -> Routes:
        return [("/search", self.search)]

    @page("search.html")
    def search(self, request: PageRequest) -> Context | Response:
        by, text = asked(request, "by") or "id", asked(request, "for")
        found: list[JobRecord] = []
        further: list[tuple[str, State]] = []
        if text is not None and by == "id":
            found = [record for record in self.broker.jobs.get_many([text]) if record is not None]
            if not found and (queue := self._dead_in(text)) is not None:
                uri = self.app.uri("queues", queue, "job", params={"id": text})
                response: Response = redirect(uri)
                return response
        names, start = self.inspector.queues(), beginning(request)
        if text is not None and by != "id":
            for queue in names[start : start + _QUEUES]:
                for state in _STATES:
                    page = self.broker.search.page(
                        queue, state, cast(By, by), text, limit=_SHOWN, calls=1
                    )
                    found += page.records
                    further += [(queue, state)] if page.cursor is not None else []
        left = max(0, len(names) - start - _QUEUES) if by != "id" else 0
        return {
            "by": by,
            "text": text,
            "found": found,
            "further": further,
            "left": left,
            "next": start + _QUEUES if left else None,
        }

    def _dead_in(self, id: str) -> str | None:
        """The queue with a dead letter of this id: letters may outlive their records."""
        names = self.inspector.queues()
        return next((name for name in names if self.inspector.letter(name, id) is not None), None)
