"""The examples of the middleware's pages work as they stand."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from broker import StreamsBroker
from broker.failures import FailureKind
from middleware.notice import Notice
from middleware.notice_channels import ActorChannel
from tests.actors.conftest import application_broker as application_broker
from tests.conftest import StartWorker
from tests.contract.recording import Seen
from tests.processes import ROOT


def _example(page: str) -> str:
    text = (ROOT / "docs" / page).read_text("utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return str(block)


def test_correlation(application_broker: StreamsBroker, capsys: pytest.CaptureFixture[str]) -> None:
    exec(_example("correlation.md"), {})  # noqa: S102 - our own page
    assert capsys.readouterr().out == "order-4711 order-4711\n"
    assert application_broker.inspector.queue("maintenance-queue").ready == 1


def test_failure_notifications(
    application_broker: StreamsBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {}
    exec(_example("failure-notifications.md"), names)  # noqa: S102 - our own page
    kind = FailureKind("retries_exhausted", "fail", "ValueError")
    notice = Notice.of("chatgenius", {"mail": {kind: 2}}).asdict()
    ActorChannel("notify_operators").send(application_broker, Notice.of("chatgenius", {}))
    assert application_broker.inspector.queue("operators").ready == 1
    names["notify_operators"](notice)
    assert capsys.readouterr().out.startswith("[chatgenius] 2 failures\n")
    del application_broker.actors["notify_operators"]


def _partner(answered: Seen) -> type[BaseHTTPRequestHandler]:
    """A web service that refuses the first request of every tenant."""
    known: set[str] = set()

    class Partner(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            tenant = self.path.split("/")[1]
            self.send_response(200 if tenant in known else 429)
            self.send_header("Retry-After", "0")
            self.end_headers()
            if tenant in known:
                answered.add(self.path)
            known.add(tenant)

        def log_message(self, *args: object) -> None:
            """Not on the test's output."""

    return Partner


def test_rate_limits(
    broker: StreamsBroker, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = Seen()
    with ThreadingHTTPServer(("127.0.0.1", 0), _partner(answered)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PARTNER_URL", f"http://127.0.0.1:{server.server_port}")
        page: dict[str, Any] = {}
        exec(_example("rate-limits.md"), page)  # noqa: S102 - our own page
        for tenant, order in (("a", 1), ("a", 2), ("b", 1)):
            page["report_order"].send(tenant, order)
        start_worker(broker, threads=2)
        assert sorted(answered.take(3)) == ["/a/orders/1", "/a/orders/2", "/b/orders/1"]
        server.shutdown()


def test_encryption(capsys: pytest.CaptureFixture[str]) -> None:
    exec(_example("encryption.md"), {})  # noqa: S102 - our own page
    assert capsys.readouterr().out == "['id', 'actor', 'at', 'sealed']\nFalse\n"
