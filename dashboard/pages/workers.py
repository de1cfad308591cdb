"""The worker processes, and what each of them runs."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from broker.job_record import JobRecord, State
from dashboard.pages.base import Pages, Routes
from dashboard.web import Context, PageRequest, page

#: Of a queue's running jobs, so many are shown.
_SHOWN: Final = 100


class WorkerPages(Pages):
    def routes(self) -> Routes:
        return [("/workers", self.workers)]

    @page("workers.html")
    def workers(self, request: PageRequest) -> Context:
        running: dict[str, list[JobRecord]] = defaultdict(list)
        for queue in self.inspector.queues():
            for record in self.broker.jobs.list(queue, State.RUNNING, limit=_SHOWN).records:
                running[record.worker].append(record)
        return {
            "workers": self.inspector.workers(),
            "running": running,
            "lease_ms": self.broker.heartbeat_timeout,
        }
