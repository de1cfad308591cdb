"""A new job, from a form that is made from its payload's type."""

from __future__ import annotations

import json
from typing import Any, Final

from dramatiq import Actor

from dashboard.forms import Field, FormRefused, fields_of, parameters_of, payload_of
from dashboard.pages.base import Pages, Routes, asked
from dashboard.web import BadRequest, Context, Done, PageRequest, action, page

_LONGEST_DELAY_MS: Final = 366 * 86_400_000


class EnqueuePages(Pages):
    def routes(self) -> Routes:
        return [("/enqueue", self.form), ("/actions/enqueue", self.enqueue)]

    @page("enqueue.html")
    def form(self, request: PageRequest) -> Context:
        name = asked(request, "actor")
        actor = None if name is None else self._actor(name)
        return {
            "actors": sorted(self.broker.actors),
            "actor": actor,
            "fields": () if actor is None else _fields(actor),
            "parameters": "" if actor is None else parameters_of(actor.fn),
            "max_priority": self.broker.max_priority,
        }

    @action("enqueue")
    def enqueue(self, request: PageRequest) -> Done:
        actor, form = self._actor(request.form("actor")), request.post_data
        fields = _fields(actor)
        options: dict[str, Any] = {}
        if priority := _number(form, "priority", self.broker.max_priority):
            options["broker_priority"] = priority
        if key := form.get("deduplication_key"):
            options["deduplication_key"] = key
        message = actor.send_with_options(
            args=(payload_of(fields, form),) if fields else tuple(_json(form, "args", list)),
            kwargs={} if fields else _json(form, "kwargs", dict),
            delay=_number(form, "delay_ms", _LONGEST_DELAY_MS) or None,
            **options,
        )
        about = {"queue": message.queue_name, "id": message.message_id, "actor": actor.actor_name}
        uri = self.app.uri("queues", message.queue_name, "job", params={"id": message.message_id})
        return Done(uri, "done", about)

    def _actor(self, name: str) -> Actor[..., Any]:
        found: Actor[..., Any] | None = self.broker.actors.get(name)
        if found is None:
            raise BadRequest(f"actor: there is no actor {name!r}", "404 Not Found")
        return found


def _fields(actor: Actor[..., Any]) -> tuple[Field, ...]:
    payload = getattr(actor, "payload_type", None)  # actors that are validated have one
    return () if payload is None else fields_of(payload)


def _number(form: dict[str, str], name: str, most: int) -> int:
    text = form.get(name, "").strip()
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and int(text) <= most):
        raise FormRefused(name, text, f"must be a number from 0 to {most}")
    return int(text)


def _json(form: dict[str, str], name: str, kind: type[Any]) -> Any:
    text = form.get(name, "").strip()
    if not text:
        return kind()
    shape = "array" if kind is list else "object"
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, kind):
        raise FormRefused(name, text, f"must be a JSON {shape}")
    return found
