"""The endpoint for those without a collector, of real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from dramatiq import Message

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from broker.errors import SettingsError
from otel.prometheus import serve
from otel.settings import PrometheusSettings
from tests.conftest import NewBroker
from tests.ports import free_port
from tests.processes import ROOT, Launcher
from tests.waiting import PATIENCE_S, eventually

MODULE = """\
import dramatiq
from broker import StreamsBroker
from dramatiq.middleware import Retries
from otel.sdk import Service
from otel.settings import ExportSettings, TelemetrySettings
from otel.stack import layers

found = layers(
    TelemetrySettings.load({{"prometheus": {{"port": {port}, "ports": 2}}, "gauge_interval": 100}}),
    Service("shop", "worker", "development"),
    ExportSettings.load(),
)
broker = StreamsBroker(
    url={url!r}, namespace={namespace!r}, middleware=[*found.above, Retries(), *found.below]
)
dramatiq.set_broker(broker)

@dramatiq.actor(queue_name="mail")
def greet():
    pass
"""


@pytest.fixture
def port() -> int:
    """The first of two ports that nobody uses."""
    return free_port(in_a_row=2)


@pytest.fixture
def producer(valkey_server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    made = new_broker("streams", valkey_server.url, middleware=[])
    assert isinstance(made, StreamsBroker)
    return made


def scrape(port: int) -> str:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/metrics").text
    except httpx.ConnectError:
        return ""


def send(producer: StreamsBroker) -> None:
    producer.enqueue(Message(queue_name="mail", actor_name="greet", args=(), kwargs={}, options={}))


def test_each_process_of_a_host_has_its_own_port(
    valkey_server: EmbeddedValkey,
    namespace: str,
    launch: Launcher,
    producer: StreamsBroker,
    port: int,
) -> None:
    source = MODULE.format(port=port, url=valkey_server.url, namespace=namespace)
    launch(source, processes=2).wait_until_ready()
    send(producer)

    def both() -> str:
        return scrape(port) + scrape(port + 1)

    text = eventually(both, lambda text: "messaging_process_duration_seconds_count" in text)
    assert re.search(r'messaging_process_duration_seconds_bucket\{.*le="3600', text)
    assert text.count("headrace_worker_threads{") == 2
    text = eventually(both, lambda text: "headrace_queue_messages{" in text)
    assert text.count('headrace_state="ready"') == 1, "one process of all reports the queues"


def test_the_queues_are_reported_without_any_worker(
    valkey_server: EmbeddedValkey,
    namespace: str,
    producer: StreamsBroker,
    port: int,
    tmp_path: Path,
) -> None:
    send(producer)
    settings = tmp_path / "settings.toml"
    settings.write_text(f"[telemetry]\ngauge_interval = 100\nprometheus = {{ port = {port} }}\n")
    environ = {
        **os.environ,
        "REDIS_URL": valkey_server.url,
        "QUEUE_PREFIX": namespace,
        "HEADRACE_SETTINGS": str(settings),
    }
    command = [sys.executable, "-m", "otel"]
    process = subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.PIPE)
    try:
        text = eventually(lambda: scrape(port), lambda text: "headrace_queue_messages{" in text)
        (consumers,) = re.findall(r"^headrace_queue_consumers\{.*\} (.*)$", text, re.MULTILINE)
        assert float(consumers) == 0
        (ready,) = re.findall(r'^headrace_queue_messages\{.*"ready".*\} (.*)$', text, re.MULTILINE)
        assert float(ready) == 1
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
        lines = [json.loads(line) for line in log.splitlines()]
        assert [(line["level"], line["event"]) for line in lines] == [("info", "log")]
        assert f":{port}" in lines[0]["data"]["message"]
    finally:
        process.kill()
        process.communicate()


def test_an_sdk_that_is_disabled_has_no_endpoint(tmp_path: Path, port: int) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text(f"[telemetry]\nprometheus = {{ port = {port} }}\n")
    environ = {"HEADRACE_SETTINGS": str(settings), "OTEL_SDK_DISABLED": "TRUE"}
    done = subprocess.run(
        [sys.executable, "-m", "otel"],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1
    assert "no metrics exporter" in done.stderr
    assert str(port) not in done.stderr


def test_a_port_that_is_taken_and_a_host_that_is_not_here_are_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            SettingsError, match=rf"telemetry\.prometheus\.port: no port from {port}"
        ):
            serve(PrometheusSettings(port=port, ports=1))
    with pytest.raises(SettingsError, match=r"telemetry\.prometheus\.host.*'192\.0\.2\.1'"):
        serve(PrometheusSettings(host="192.0.2.1"))
