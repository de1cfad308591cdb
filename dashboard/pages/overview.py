"""The first page: all queues, the server, the workers and the last hour."""

from __future__ import annotations

from dashboard.charts import charts, span
from dashboard.pages.base import Pages, Routes
from dashboard.web import Context, PageRequest, page


class OverviewPages(Pages):
    def routes(self) -> Routes:
        return []  # theirs has the path of this one

    @page("overview.html")
    def overview(self, request: PageRequest) -> Context:
        samples = self.app.sampler.total()
        return {
            "queues": self.app.iface.queues,
            "workers": self.app.iface.workers,
            "servers": self.inspector.server_facts(),
            "charts": charts(samples),
            "span": span(samples),
            "lease_ms": self.broker.heartbeat_timeout,
        }
