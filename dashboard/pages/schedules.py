"""What fires by the clock: when it did and will, paused, resumed and run now."""

from __future__ import annotations

from broker.errors import UnknownSchedule
from dashboard.pages.base import Pages, Routes
from dashboard.web import BadRequest, Context, Done, Outcome, PageRequest, action, page


class SchedulePages(Pages):
    def routes(self) -> Routes:
        return [
            ("/schedules", self.schedules),
            ("/actions/pause-schedule", self.pause),
            ("/actions/resume-schedule", self.resume),
            ("/actions/run-schedule", self.run),
        ]

    @page("schedules.html")
    def schedules(self, request: PageRequest) -> Context:
        return {"schedules": self.inspector.schedules.list()}

    @action("pause schedule")
    def pause(self, request: PageRequest) -> Done:
        return self._done(self.inspector.schedules.pause(self._name(request)), "was paused already")

    @action("resume schedule")
    def resume(self, request: PageRequest) -> Done:
        return self._done(self.inspector.schedules.resume(self._name(request)), "was not paused")

    @action("run schedule")
    def run(self, request: PageRequest) -> Done:
        message = self.inspector.schedules.run_now(self._name(request))
        uri = self.app.uri("queues", message.queue_name, "job", params={"id": message.message_id})
        return Done(uri, "done", {"id": message.message_id})

    def _name(self, request: PageRequest) -> str:
        name = request.form("name")
        try:
            self.inspector.schedules.get(name)
        except UnknownSchedule as error:
            raise BadRequest(str(error), "404 Not Found") from error
        return name

    def _done(self, changed: bool, otherwise: Outcome) -> Done:
        return Done(self.app.uri("schedules"), "done" if changed else otherwise)
