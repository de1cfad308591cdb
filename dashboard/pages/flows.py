"""Flows: the ones that were heard of lately, and one as a graph."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final

from broker.job_record import State
from dashboard.flow_graph import ReadFlow, drawn, reader
from dashboard.pages.base import Pages, Routes, asked, beginning
from dashboard.web import BadRequest, Context, PageRequest, page

#: Of a queue's jobs in each state, the newest so many are asked for their flow.
_ASKED: Final = 30
#: That one page asks.
_QUEUES: Final = 20
_SHOWN: Final = 20
_STATES: Final = (State.RUNNING, State.QUEUED, State.COMPLETED, State.DEAD)


class FlowPages(Pages):
    def routes(self) -> Routes:
        return [("/flows", self.flows), ("/flow", self.flow)]

    @cached_property
    def _reader(self) -> ReadFlow | None:
        return reader()

    @page("flows.html")
    def flows(self, request: PageRequest) -> Context:
        ids: dict[str, None] = {}
        names, start = self.inspector.queues(), beginning(request)
        for queue in names[start : start + _QUEUES]:
            for state in _STATES:
                records = self.broker.jobs.list(queue, state, limit=_ASKED).records
                ids |= {record.flow_id: None for record in records if record.flow_id}
            ids |= {id: None for id, _ in self.broker.flows.deadlines(queue, _ASKED)}
        found = [self._read(id) for id in list(ids)[:_SHOWN]]
        known = [flow for flow in found if flow is not None]
        left = max(0, len(names) - start - _QUEUES)
        return {
            "flows": sorted(known, key=lambda flow: flow.started_at, reverse=True),
            "left": left,
            "next": start + _QUEUES if left else None,
        }

    @page("flow.html")
    def flow(self, request: PageRequest) -> Context:
        id = asked(request, "id")
        flow = None if id is None else self._read(id)
        if flow is None:
            raise BadRequest(f"id: there is no flow {id!r}, or it is forgotten", "404 Not Found")
        return {"flow": flow, "graph": drawn(flow.steps)}

    def _read(self, id: str) -> Any:
        return None if self._reader is None else self._reader(id, broker=self.broker)
