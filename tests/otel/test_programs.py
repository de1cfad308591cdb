"""What the command line and the dashboard send is traced, and nothing holds them up for it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from dramatiq import Message

from bench.otlp import Received, Receiver, Span
from broker import State, StreamsBroker
from broker.embedded import EmbeddedValkey
from otel.sdk import FLUSH_S
from tests.conftest import NewBroker
from tests.dashboard.browser import SAME_ORIGIN
from tests.processes import ROOT
from tests.waiting import PATIENCE_S

QUEUE = "notification-queue"
CONTENT = {"to": "u1@example.com", "subject": "Hi", "text": "There"}
ENQUEUE = (
    *("broker.cli.main", "jobs", "enqueue", "send_notification"),
    json.dumps({"type": "email", "userId": "u1", "payload": CONTENT}),
)


@pytest.fixture
def server_environment(valkey_server: EmbeddedValkey, namespace: str) -> dict[str, str]:
    return {"REDIS_URL": valkey_server.url, "QUEUE_PREFIX": namespace}


@pytest.fixture
def environment(server_environment: dict[str, str], receiver: Receiver) -> dict[str, str]:
    return receiver.environment | server_environment


@pytest.fixture
def sent(valkey_server: EmbeddedValkey, new_broker: NewBroker) -> Callable[[], Message[Any]]:
    """The one message of the queue."""
    broker = new_broker("streams", valkey_server.url, middleware=[])
    assert isinstance(broker, StreamsBroker)

    def read() -> Message[Any]:
        (record,) = broker.jobs.list(QUEUE, State.QUEUED).records
        message = broker.contents.of(QUEUE, record.id, opened=True)
        assert message is not None
        return message

    return read


@contextmanager
def started(environment: Mapping[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def made(message: Message[Any], spans: list[Span]) -> Span:
    """The span that made the message, of all that sent."""
    (span,) = (s for s in spans if s.attributes["messaging.message.id"] == message.message_id)
    assert message.options["traceparent"].startswith(f"00-{span.trace_id}-{span.span_id}-")
    return span


def test_a_job_of_the_command_line_has_the_context_of_its_send(
    environment: dict[str, str],
    received: Received,
    sent: Callable[[], Message[Any]],
    namespace: str,
) -> None:
    with started(environment, *ENQUEUE) as process:
        _, log = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, log) == (0, "")
    span = made(sent(), received.wait_for_spans(f"send {QUEUE}"))
    assert span.kind == "PRODUCER"
    assert span.resource["service.name"] == f"{namespace}-cli"
    assert received.points("messaging.client.sent.messages") == []  # they would end with it


@pytest.mark.faults
@pytest.mark.parametrize("away", ["refused", "silent"])
def test_a_dead_collector_holds_a_command_up_for_seconds_at_most(
    server_environment: dict[str, str], sent: Callable[[], Message[Any]], away: str
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if away == "silent":
            listener.listen()
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        environment = server_environment | {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        with started(environment, *ENQUEUE) as process:
            assert process.stdout is not None
            id = process.stdout.readline().strip()
            begin = time.monotonic()
            process.communicate(timeout=60)
            assert time.monotonic() - begin < FLUSH_S + 3
            assert process.returncode == 0
    assert sent().message_id == id


def test_a_job_of_the_dashboards_form_has_the_context_of_its_send_and_its_line_leads_there(
    environment: dict[str, str],
    received: Received,
    sent: Callable[[], Message[Any]],
    namespace: str,
) -> None:
    environment |= {"HEADRACE_DASHBOARD_PORT": "0"}
    with started(environment, "dashboard", "--app", "actors") as process:
        assert process.stderr is not None
        address = re.match("dashboard: (.*)/$", process.stderr.readline())
        assert address is not None
        with httpx.Client(base_url=address[1], headers=SAME_ORIGIN) as client:
            page = client.get("/enqueue?actor=send_notification")
            token = re.search(r'name="__dd_csrf" value="(\w+)"', page.text)
            assert token is not None, page.text
            fields = {"__dd_csrf": token[1], "actor": "send_notification"}
            fields |= {"payload.type": "email", "payload.userId": "u1"}
            fields |= {"payload.payload": json.dumps(CONTENT)}
            answer = client.post("/actions/enqueue", data=fields)
            assert answer.status_code == 302, answer.text
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
    message = sent()
    span = made(message, received.wait_for_spans(f"send {QUEUE}"))
    assert span.resource["service.name"] == f"{namespace}-dashboard"
    lines = {line["event"]: line for line in map(json.loads, log.splitlines())}
    queued, action = lines["job_queued"], lines["dashboard_action"]
    assert queued["data"]["jobId"] == action["data"]["jobId"] == message.message_id
    assert (queued["trace_id"], queued["span_id"]) == (span.trace_id, span.span_id)
