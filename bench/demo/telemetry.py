"""`--telemetry`: the demo's spans as they went over OTLP, and one job's trace as a tree.

A web application in the demo's process sends a job, which sends another one, fails, and
succeeds when it is tried again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
from rich.console import Console
from rich.tree import Tree

from bench.demo.jobs import welcome
from bench.otlp import Receiver, Span
from broker import StreamsBroker
from otel.sdk import Sdk, Service
from otel.settings import ExportSettings, TelemetrySettings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_QUEUE = "notification-queue"


class Telemetry:
    """Receives what the demo's processes emit; a context manager."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._receiver = Receiver("http/protobuf")
        self._sdk: Sdk | None = None

    def __enter__(self) -> Telemetry:
        self._receiver.__enter__()
        # Of this process too: the SDK reads its variables itself.
        os.environ.update(self.environment)
        service = Service("demo", "web", "development")
        self._sdk = Sdk.set_up(service, TelemetrySettings(metrics=False), ExportSettings.load())
        return self

    def __exit__(self, *_: object) -> None:
        self._receiver.__exit__()

    @property
    def environment(self) -> Mapping[str, str]:
        """What the workers are told; each span is kept."""
        return self._receiver.environment | {"OTEL_TRACES_SAMPLER": "parentbased_always_on"}

    def follow(self, broker: StreamsBroker) -> list[Span]:
        """Send one job by a web request, and wait for all spans of its trace."""
        with _application(broker) as url:
            message_id = httpx.post(f"{url}/welcome").text
        if self._sdk is not None:
            self._sdk.flush()
        received = self._receiver.received
        received.wait_until(
            lambda: any(_is_last(span, message_id) for span in received.spans()),
            "the last attempt of the job that was sent by a request",
        )
        (last,) = [span for span in received.spans() if _is_last(span, message_id)]
        received.wait_until(
            lambda: len([span for span in received.spans() if span.trace_id == last.trace_id]) >= 6,
            "the whole trace of the job that was sent by a request",
        )
        return [span for span in received.spans() if span.trace_id == last.trace_id]

    def write(self) -> int:
        """Write every span that was received to the file, a line each; how many."""
        spans = self._receiver.received.spans()
        with self._file.open("w", encoding="utf-8") as file:
            for span in spans:
                file.write(json.dumps(dataclasses.asdict(span)) + "\n")
        return len(spans)


def show(console: Console, spans: Iterable[Span]) -> None:
    """Print the spans of one trace, each below its parent."""
    by_parent: dict[str, list[Span]] = defaultdict(list)
    spans = list(spans)
    known = {span.span_id for span in spans}
    for span in spans:
        by_parent[span.parent_id if span.parent_id in known else ""].append(span)
    (root,) = by_parent[""]
    tree = Tree(_line(root))
    _grow(tree, root, by_parent)
    console.print(f"\nOne job's trace, {root.trace_id}, as it went over OTLP:", highlight=False)
    console.print(tree, highlight=False)


def _grow(tree: Tree, span: Span, by_parent: Mapping[str, list[Span]]) -> None:
    for child in by_parent.get(span.span_id, []):
        _grow(tree.add(_line(child)), child, by_parent)


def _line(span: Span) -> str:
    attempt = span.attributes.get("headrace.attempt", 1)
    facts = [
        span.kind.lower(),
        span.resource["service.name"],
        f"{span.seconds * 1000:.1f} ms",
        *([f"attempt {attempt}"] if attempt > 1 else []),
        *([span.attributes["error.type"]] if span.status == "ERROR" else []),
    ]
    actor = span.attributes.get("headrace.actor", "")
    return f"{span.name} {actor} ({', '.join(facts)})".replace("[", "\\[")


def _is_last(span: Span, message_id: str) -> bool:
    return (
        span.name == f"process {_QUEUE}"
        and span.attributes["messaging.message.id"] == message_id
        and span.status != "ERROR"
    )


@contextmanager
def _application(broker: StreamsBroker) -> Iterator[str]:
    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        message = broker.enqueue(welcome.message("user-welcome"))
        start_response("202 Accepted", [("Content-Type", "text/plain")])
        return [message.message_id.encode()]

    class Silent(WSGIRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    application = OpenTelemetryMiddleware(answer)
    with make_server("127.0.0.1", 0, application, handler_class=Silent) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
