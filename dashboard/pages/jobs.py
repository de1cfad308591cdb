"""One job: what it is, how it went, and what an operator does with it."""

from __future__ import annotations

from typing import Any, Final

from dramatiq.errors import DecodeError
from dramatiq.message import Message

from broker import evidence
from broker.dead_letter import DeadLetter
from broker.events import Event
from broker.job_record import JobRecord, State
from broker.jobs import JobUnknown
from broker.sealing import Unauthenticated, Undecryptable
from dashboard.pages.base import Pages, Routes, asked, named
from dashboard.web import BadRequest, Context, Done, PageRequest, action, noted, page

#: The newest events of a queue that are looked through for those of a job.
_EVENTS: Final = 1_000
#: In the place of an option that may hold a payload.
HIDDEN: Final = "hidden"


class JobPages(Pages):
    def routes(self) -> Routes:
        return [
            ("/queues/(?P<queue>[^/]+)/job", self.job),
            ("/queues/(?P<queue>[^/]+)/reveal", self.reveal),
            ("/actions/cancel", self.cancel),
            ("/actions/promote", self.promote),
            ("/actions/retry", self.retry),
            ("/actions/delete", self.delete),
        ]

    @page("job.html")
    def job(self, request: PageRequest, *, queue: str) -> Context:
        id = asked(request, "id")
        if id is None:
            raise BadRequest("id: must be that of a job")
        return self._context(self.known(queue), id, revealed=False)

    @page("job.html")
    def reveal(self, request: PageRequest, *, queue: str) -> Context:
        if request.method != "POST":
            raise BadRequest("Expected a POST request.", "405 Method Not Allowed")
        id = request.form_key("id")
        if not request.operates:
            noted(request, "reveal", "refused: role", queue=queue)
            raise BadRequest("Your role may look, but not reveal.", "403 Forbidden")
        context = self._context(self.known(queue), id, revealed=True)
        noted(request, "reveal", context["unreadable"] or "done", queue=queue)
        return context

    def _context(self, queue: str, id: str, *, revealed: bool) -> Context:
        record = self.broker.jobs.get(named(queue, id))
        lies_in, letter = queue, None
        if record is None or _dead(record):
            lies_in, letter = self._letter(queue, id, anywhere=record is not None)
        if record is None and letter is None:
            raise JobUnknown(id)
        unreadable = ""
        message: Message[Any] | None = None
        try:
            if letter is not None:
                letter = self.broker.codec.revealed(letter) if revealed else letter
                message = letter.message or letter.header
            else:
                message = self.broker.contents.of(queue, id, opened=revealed)
        except (DecodeError, Undecryptable, Unauthenticated) as error:
            unreadable = f"can't be read here: {type(error).__name__}"
        return {
            "queue": queue,
            "id": id,
            "job": record,
            "letter": letter,
            "lies_in": lies_in,
            "message": message,
            "revealed": revealed,
            "unreadable": unreadable,
            "attempts": _attempts(letter, message),
            "options": _options(message, revealed),
            "events": self._events(queue, id),
            "correlation_id": _correlation_id(record, letter),
            "trace_id": _trace_id(record, letter),
        }

    def _letter(self, queue: str, id: str, *, anywhere: bool) -> tuple[str, DeadLetter | None]:
        """A dead letter and the queue among whose it lies, which may be another one."""
        for name in (queue, *(self.inspector.queues() if anywhere else ())):
            letter = self.inspector.letter(name, id)
            if letter is not None:
                return name, letter
        return queue, None

    def _events(self, queue: str, id: str) -> list[Event]:
        found = [e for e in self.broker.events.latest(queue, _EVENTS) if e.message_id == id]
        return found[::-1]

    @action("cancel")
    def cancel(self, request: PageRequest) -> Done:
        queue, id = _of(request)
        done = self.broker.jobs.cancel(named(queue, id))
        return Done(self._uri(queue, id), "done" if done else "had ended")

    @action("promote")
    def promote(self, request: PageRequest) -> Done:
        queue, id = _of(request)
        done = self.broker.jobs.promote(named(queue, id))
        return Done(self._uri(queue, id), "done" if done else "was not scheduled")

    @action("retry")
    def retry(self, request: PageRequest) -> Done:
        queue, id = _of(request)
        record = self.broker.jobs.get(named(queue, id))
        if record is not None and record.state is State.RETRYING:
            done = self.broker.jobs.promote(named(queue, id))
        else:
            done = self.inspector.redrive(queue, [id]) > 0
            home = self.broker.jobs.get(id)  # a letter may have lain among those of another queue
            queue = queue if home is None else home.queue
        return Done(self._uri(queue, id), "done" if done else "was not dead")

    @action("delete")
    def delete(self, request: PageRequest) -> Done:
        queue, id = _of(request)
        done = self.inspector.drop_dead(queue, [id]) > 0
        return Done(self.app.uri("queues", queue, "dead"), "done" if done else "was not dead")

    def _uri(self, queue: str, id: str) -> str:
        return self.app.uri("queues", queue, "job", params={"id": id})


def _of(request: PageRequest) -> tuple[str, str]:
    return request.form("queue"), request.form_key("id")


def _dead(record: JobRecord) -> bool:
    return record.state is State.DEAD


def _attempts(letter: DeadLetter | None, message: Message[Any] | None) -> list[evidence.Attempt]:
    if letter is not None:
        return letter.attempts
    return [] if message is None else evidence.attempts_of(message.options)


def _options(message: Message[Any] | None, revealed: bool) -> dict[str, Any]:
    """What was sent beside the arguments, without what the page tells elsewhere."""
    if message is None:
        return {}
    told = (evidence.ATTEMPTS, "traceback")
    shown = {name: value for name, value in message.options.items() if name not in told}
    # A pipeline carries the messages that follow, with their arguments.
    return {n: value if revealed or _plain(value) else HIDDEN for n, value in shown.items()}


def _plain(value: object) -> bool:
    return not isinstance(value, dict | list)


def _correlation_id(record: JobRecord | None, letter: DeadLetter | None) -> str | None:
    found = None if record is None else record.correlation_id
    return found or (None if letter is None else letter.correlation_id)


def _trace_id(record: JobRecord | None, letter: DeadLetter | None) -> str | None:
    found = None if record is None else record.trace_id
    return found or (None if letter is None else letter.trace_id)
