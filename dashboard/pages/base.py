"""What pages have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from dramatiq.message import Message

from broker.job_record import JobRecord
from broker.jobs import JobUnknown
from dashboard.web import BadRequest, PageRequest

if TYPE_CHECKING:
    from dashboard.application import Dashboard

Routes: TypeAlias = list[tuple[str, Callable[..., Any]]]


class Pages:
    """Some pages of a dashboard."""

    def __init__(self, app: Dashboard) -> None:
        self.app = app
        self.broker = app.broker
        self.inspector = app.broker.inspector
        self.templates = app.templates

    def routes(self) -> Routes:
        """Patterns of paths, each with the method that answers."""
        raise NotImplementedError

    def known(self, queue: str) -> str:
        """The name of a queue that somebody has used.

        Raises:
          BadRequest: nobody has.
        """
        if queue not in self.inspector.queues():
            raise BadRequest(f"queue: there is no queue {queue!r}", "404 Not Found")
        return queue

    def record(self, queue: str, id: str) -> JobRecord:
        """A job of this queue.

        Raises:
          JobUnknown: there is no record of it.
        """
        found: JobRecord | None = self.broker.jobs.get(named(queue, id))
        if found is None:
            raise JobUnknown(id)
        return found


def named(queue: str, id: str) -> Message[Any]:
    """A message that stands for a job: with its queue's name fewer keys are read."""
    return Message(queue, "", (), {}, {}, message_id=id)


def beginning(request: PageRequest) -> int:
    """Where a page begins that looks at so many queues only: its parameter ``from``.

    Raises:
      BadRequest: it is no number.
    """
    text = request.params.get("from", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadRequest(f"from: must be a number, got {text!r}")
    return int(text)


def asked(request: PageRequest, name: str) -> str | None:
    """A parameter of the page's address; None when it is not there or empty."""
    return request.params.get(name) or None
