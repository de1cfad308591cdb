"""From a real HTTP request with a `traceparent` to the run of its job: one trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from bench.otlp import Received, Receiver
from broker.embedded import EmbeddedValkey
from tests.ports import free_port
from tests.processes import ROOT, Launcher
from tests.waiting import PATIENCE_S, eventually

EXAMPLES = ROOT / "docs" / "examples"
REQUEST = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
REQUEST_TRACE, REQUEST_SPAN = REQUEST.split("-")[1:3]


@pytest.fixture
def environment(
    valkey_server: EmbeddedValkey, namespace: str, receiver: Receiver
) -> dict[str, str]:
    return {
        **receiver.environment,
        "REDIS_URL": valkey_server.url,
        "QUEUE_PREFIX": namespace,
        "OTEL_METRICS_EXPORTER": "none",
    }


@pytest.fixture(params=["wsgi", "asgi"])
def web(request: pytest.FixtureRequest, environment: dict[str, str]) -> Iterator[str]:
    """The example application on a port of its own; its URL."""
    port = str(free_port())
    programs = {
        "wsgi": [str(EXAMPLES / "wsgi.py"), port],
        "asgi": ["-m", "uvicorn", "--app-dir", str(EXAMPLES), "--port", port, "asgi:application"],
    }
    process = subprocess.Popen(
        [sys.executable, *programs[request.param]],
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait(PATIENCE_S)


WORKER = """\
from dramatiq.middleware import Middleware
from opentelemetry import baggage

from actors import broker

class Shows(Middleware):
    def before_process_message(self, broker, message):
        print("runs for the", baggage.get_baggage("tenant"), "tenant")

broker.add_middleware(Shows())  # last: it sees what the job sees
"""


def test_a_requests_trace_goes_on_in_its_job(
    web: str, environment: dict[str, str], received: Received, launch: Launcher
) -> None:
    workers = launch(WORKER, environment=environment, threads=1)
    headers = {"traceparent": REQUEST, "baggage": "tenant=blue", "X-Correlation-ID": "order-1"}

    def post() -> httpx.Response | None:
        try:
            return httpx.post(f"{web}/greet/u1", headers=headers)
        except httpx.ConnectError:
            return None  # it has not started yet

    response = eventually(post, lambda answer: answer is not None, what="the web application")
    assert response is not None
    assert response.status_code == 202
    (run,) = received.wait_for_spans("process notification-queue")
    (send,) = received.wait_for_spans("send notification-queue")
    server = eventually(
        lambda: {span.span_id: span for span in received.spans()}.get(send.parent_id),
        lambda span: span is not None,
        what="the request's span",
    )
    assert server is not None
    assert (server.kind, server.trace_id, server.parent_id) == (
        "SERVER",
        REQUEST_TRACE,
        REQUEST_SPAN,
    )
    assert (send.trace_id, run.trace_id, run.parent_id) == (
        REQUEST_TRACE,
        REQUEST_TRACE,
        send.span_id,
    )
    assert send.resource["service.name"].endswith("-web")
    assert run.resource["service.name"].endswith("-worker")
    assert run.attributes["messaging.message.id"] == response.text
    assert run.attributes["messaging.message.conversation_id"] == "order-1"
    workers.wait_for_log("runs for the blue tenant")
