"""The newest events of all queues or of one, live."""

from __future__ import annotations

from typing import Final

from dashboard.pages.base import Pages, Routes, asked
from dashboard.web import Context, PageRequest, page

_SHOWN: Final = 100


class EventPages(Pages):
    def routes(self) -> Routes:
        return [("/events", self.events)]

    @page("events.html")
    def events(self, request: PageRequest) -> Context:
        names, queue = self.inspector.queues(), asked(request, "queue")
        chosen = names if queue is None else [self.known(queue)]
        found = [event for name in chosen for event in self.broker.events.latest(name, _SHOWN)]
        newest = sorted(found, key=lambda event: event.at_ms, reverse=True)
        return {"events": newest[:_SHOWN], "queues": names, "chosen": queue}
