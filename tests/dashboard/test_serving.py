"""The dashboard as a process of its own, and what its page in the docs says."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import dramatiq
import httpx
import pytest
import redis

from broker import SettingsError, State, StreamsBroker
from broker.embedded import EmbeddedValkey
from broker.settings import Settings
from dashboard import Access, Dashboard, passwords
from dashboard.serving import Server
from dashboard.settings import VARIABLES, DashboardSettings
from tests.dashboard.browser import SAME_ORIGIN, Browser
from tests.dashboard.chromium import served
from tests.processes import ROOT
from tests.waiting import eventually

PAGE = (ROOT / "docs" / "dashboard.md").read_text("utf-8")


def _started(module: str, *arguments: str, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_serves_until_an_interrupt_and_notes_what_is_done(
    valkey_server: EmbeddedValkey, broker: StreamsBroker, namespace: str
) -> None:
    broker.enqueue(dramatiq.Message("mail", "send", (), {}, {}))
    process = _started(
        *("broker.cli.main", "dashboard", "--json"),
        REDIS_URL=valkey_server.url,
        QUEUE_PREFIX=namespace,
        HEADRACE_DASHBOARD_PORT="0",
    )
    try:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        with httpx.Client(base_url=url) as client:
            page = client.get("/queues/mail/jobs")
            assert page.status_code == 200
            assert "server" not in page.headers
            token = re.search(r'name="__dd_csrf" value="(\w+)"', page.text)
            assert token is not None
            answer = client.post(
                "/actions/pause",
                data={"__dd_csrf": token[1], "queue": "mail"},
                headers={"sec-fetch-site": "same-origin"},
            )
            assert answer.status_code == 302
            assert client.post("/", content=b"x" * 1_200_000).status_code == 413
        assert broker.inspector.queue("mail").paused
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0
        (line,) = map(json.loads, log.splitlines())
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("timestamp"))
        assert line == {
            "correlationId": f"{socket.gethostname()}:{process.pid}",
            "level": "info",
            "event": "dashboard_action",
            "data": {
                "action": "pause",
                "user": "local",
                "address": "127.0.0.1",
                "outcome": "done",
                "queueName": "mail",
            },
        }
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_the_development_command_runs_all_there_is_until_ctrl_c(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "broker.cli.main", "dev", "--processes=1", "--threads=1"],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if not k.startswith(("REDIS_", "QUEUE_"))},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        server = next(found[1] for line in lines if (found := re.search(r"REDIS_URL=(\S+)", line)))
        site = next(found[1] for line in lines if (found := re.search(r"dashboard: (\S+)", line)))
        threading.Thread(target=process.stderr.read, daemon=True).start()  # it must not block
        broker = StreamsBroker(url=server, namespace=Settings.load({}).queue_prefix, middleware=[])
        # The scheduler has declared it, the dashboard runs it, and the worker takes it.
        eventually(broker.inspector.schedules.list, lambda found: len(found) > 0)
        with httpx.Client(base_url=site, headers=SAME_ORIGIN) as client:
            token = re.search(r'name="__dd_csrf" value="(\w+)"', client.get("schedules").text)
            assert token is not None
            fields = {"__dd_csrf": token[1], "name": "report_queues"}
            answer = client.post("actions/run-schedule", data=fields)
            id = parse_qs(urlsplit(answer.headers["location"]).query)["id"][0]
        assert broker.jobs.wait(id, 20_000).state is State.COMPLETED
        broker.close()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: everybody hears it
        assert process.wait(30) == 0
        with pytest.raises(redis.ConnectionError), redis.Redis.from_url(server) as client:
            client.ping()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("HEADRACE_DASHBOARD_HOST", "0.0.0.0", "loopback"),  # noqa: S104
        ("HEADRACE_DASHBOARD_USERS", "olga:operator:secret", "is no hash"),
    ],
)
def test_it_refuses_to_start(variable: str, value: str, told: str) -> None:
    process = _started("dashboard", **{variable: value, "REDIS_URL": "redis://127.0.0.1:1"})
    _, log = process.communicate(timeout=20)
    assert process.returncode == 2
    assert variable in log
    assert told in log
    assert "secret" not in log
    assert "Traceback" not in log


def test_a_port_that_is_taken_is_told_in_one_line(broker: StreamsBroker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        settings = DashboardSettings.load({"HEADRACE_DASHBOARD_PORT": port})
        with pytest.raises(SettingsError, match=f"free port.*127.0.0.1:{port}"):
            Server(broker, settings)


def test_a_password_is_hashed_for_the_users_file() -> None:
    process = _started("dashboard", "hash-password")
    out, _ = process.communicate("correct horse\n", timeout=20)
    assert passwords.matches("correct horse", out.strip())
    assert not passwords.matches("wrong", out.strip())
    assert "correct horse" not in out


def test_it_is_served_under_a_path_of_a_proxy(broker: StreamsBroker) -> None:
    environ = {"HEADRACE_DASHBOARD_PREFIX": "/ops/jobs", "HEADRACE_DASHBOARD_HTTPS": "true"}
    with served(broker, environ) as (_, url), httpx.Client() as client:
        assert url.endswith("/ops/jobs")
        for address in (url, f"{url}/"):
            page = client.get(address)
            assert 'href="/ops/jobs/workers"' in page.text
        assert client.get(f"{url}x").status_code == 404
        assert client.get(f"{url}/static/headrace.js").status_code == 200
        assert "Path=/ops/jobs" in page.headers["set-cookie"]
        assert "; Secure" in page.headers["set-cookie"]


def test_the_audit_log_has_the_address_that_the_proxy_knows(
    broker: StreamsBroker, audit: Callable[[], list[dict[str, Any]]]
) -> None:
    environ = {"HEADRACE_DASHBOARD_PROXY_ADDRESSES": "127.0.0.0/8"}
    with served(broker, environ) as (_, url):
        httpx.post(f"{url}/actions/pause", headers={"x-forwarded-for": "203.0.113.7"})
    assert [line["address"] for line in audit()] == ["203.0.113.7"]


def test_it_says_so_when_the_server_is_away() -> None:
    broker = StreamsBroker(url="redis://127.0.0.1:1", middleware=[])
    browser = Browser(Dashboard(broker, access=Access.open_to_this_machine()))
    answer = browser.get("/")
    assert answer.status_code == 503
    assert "The server can&#39;t be asked now" in answer.text
    assert browser.get("/static/headrace.css").status_code == 200


def test_the_page_lists_every_variable() -> None:
    listed = set(re.findall(r"^\| `(HEADRACE_DASHBOARD_\w+)`", PAGE, re.MULTILINE))
    assert listed == {variable.name for variable in VARIABLES}


def test_the_page_has_its_pictures_and_they_are_small() -> None:
    shown = set(re.findall(r"\(dashboard/([\w-]+\.png)\)", PAGE))
    kept = {file.name: file.stat().st_size for file in (ROOT / "docs" / "dashboard").iterdir()}
    assert shown == kept.keys()
    assert max(kept.values()) < 100_000


def test_the_pages_example_of_mounting_works(broker: StreamsBroker) -> None:
    (source,) = re.findall(r"^```python\n# wsgi\.py\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(source, "wsgi.py", "exec"), names)  # noqa: S102  # the page's own example
    browser = Browser(names["application"])
    assert browser.get("/").text == "the application\n"
    assert browser.get("/jobs/").status_code == 401


def test_the_packages_data_has_every_template_and_asset() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["dashboard"]
    folder = ROOT / "dashboard"
    packed = {path for pattern in patterns for path in folder.glob(pattern)}
    assert packed >= {*folder.glob("templates/*"), *folder.glob("static/*")}
