"""Every query of the dashboards, on a real Prometheus that scrapes a real worker."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from dramatiq import Message
from ruamel.yaml import YAML

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from broker.schedule import Schedule
from otel.dashboards import FOLDER, files
from tests.conftest import NewBroker
from tests.otel.tools import Prometheus, load_yaml, prometheus
from tests.ports import free_port
from tests.processes import ROOT, Launcher
from tests.waiting import eventually

ALERTS = ROOT / "otel" / "config" / "prometheus" / "alerts.yml"
#: Made by Tempo out of traces, so there are none here.
FROM_TRACES = "traces_"

MODULE = """\
import dramatiq, redis
from dramatiq.errors import RateLimitExceeded
from dramatiq.middleware import CurrentMessage, Retries
from broker import StreamsBroker
from otel.sdk import Service
from otel.settings import ExportSettings, TelemetrySettings
from otel.stack import layers

found = layers(
    TelemetrySettings.load({{"prometheus": {{"port": {port}, "ports": 1}}, "gauge_interval": 200}}),
    Service("shop", "worker", "development"),
    ExportSettings.load(),
)
retries = Retries(max_retries=1, min_backoff=1, max_backoff=1)
broker = StreamsBroker(
    url={url!r},
    namespace={namespace!r},
    middleware=[*found.above, CurrentMessage(), retries, *found.below],
)
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="mail")
def work(how):
    if how == "fails":
        raise ValueError
    if how == "is turned away":
        raise RateLimitExceeded("too many")
    if how == "sends":
        for each in ("succeeds", "fails", "is turned away", "is stolen"):
            work.send(each)
    lease = CurrentMessage.get_current_message().lease
    if how == "is stolen" and lease.count == 1:
        with redis.Redis.from_url({url!r}) as client:
            stream = broker.commands.keys("mail").ready[0]
            client.xclaim(stream, "workers", "t", 0, [lease.entry_id])
        broker.commands.reclaim_consumer("mail", 0, "t", 5, 10)
"""


def expressions(file: str) -> list[str]:
    """The PromQL of a dashboard, as Grafana would send it."""
    found = []
    for panel in json.loads((FOLDER / file).read_text("utf-8"))["panels"]:
        for target in panel["targets"]:
            if target["datasource"]["type"] == "prometheus":
                text = target["expr"].replace("$__rate_interval", "10s")
                found.append(text.replace("$queue", ".*").replace("$actor", ".*"))
    return found


def scaled_object() -> Any:
    """The example for KEDA."""
    page = (ROOT / "docs" / "telemetry.md").read_text("utf-8")
    (text,) = re.findall(r"```yaml\n(apiVersion: keda.*?)```", page, re.DOTALL)
    return YAML(typ="safe").load(text)


def test_workers_are_not_taken_away_while_nobody_reports() -> None:
    spec = scaled_object()["spec"]
    (trigger,) = spec["triggers"]
    assert trigger["metadata"]["ignoreNullValues"] == "false", "KEDA takes no value for 0 otherwise"
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
    assert spec["fallback"]["replicas"] >= spec["minReplicaCount"]


def test_the_files_are_what_the_code_makes() -> None:
    """`python -m otel.dashboards` writes them."""
    assert {path.name: path.read_text("utf-8") for path in FOLDER.iterdir()} == files()


def test_panels_do_not_overlap_and_their_data_sources_are_provisioned() -> None:
    provisioned = ROOT / "otel/config/grafana/provisioning/datasources/headrace.yml"
    known = {each["uid"] for each in load_yaml(provisioned)["datasources"]}
    uids = set()
    for name in files():
        dashboard = json.loads((FOLDER / name).read_text("utf-8"))
        uids.add(dashboard["uid"])
        taken: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            columns = range(place["x"], place["x"] + place["w"])
            cells = {(x, y) for x in columns for y in range(place["y"], place["y"] + place["h"])}
            assert not cells & taken, (name, panel["title"])
            assert max(columns) < 24
            taken |= cells
            assert panel["datasource"]["uid"] in known
    assert len(uids) == len(files()), "two dashboards have one uid"


@pytest.fixture
def scraping(
    valkey_server: EmbeddedValkey,
    namespace: str,
    new_broker: NewBroker,
    launch: Launcher,
    tmp_path: Path,
) -> Any:
    """A Prometheus that scrapes a worker, to which everything happens that can be counted."""
    port = free_port()
    source = MODULE.format(port=port, url=valkey_server.url, namespace=namespace)
    launch(source, threads=2)
    producer = new_broker("streams", valkey_server.url, middleware=[])
    assert isinstance(producer, StreamsBroker)
    tick = Schedule(name="tick", queue="mail", actor="work", cron="* * * * * *")
    producer.inspector.schedules.put(tick, declared=False)

    def send() -> None:
        producer.enqueue(
            Message(queue_name="mail", actor_name="work", args=("sends",), kwargs={}, options={})
        )

    config = f"""
global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 500ms}}
rule_files: [{ALERTS}]
scrape_configs:
  - job_name: worker
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""
    flags = ("--web.enable-remote-write-receiver", "--enable-feature=exemplar-storage")
    with prometheus(tmp_path, config, *flags) as running:
        yield running, send


def test_every_query_returns_data(scraping: tuple[Prometheus, Any]) -> None:
    running, send = scraping
    wanted = {text for name in files() for text in expressions(name) if FROM_TRACES not in text}
    assert len(wanted) > 25
    (trigger,) = scaled_object()["spec"]["triggers"]
    wanted.add(trigger["metadata"]["query"].replace("notification-queue", "mail"))

    def without_data() -> list[str]:
        send()  # rates need something that goes on
        return sorted(text for text in wanted if not running.query(text))

    eventually(without_data, lambda missing: missing == [], what="data for every query")
    rules = [rule for group in running.get("/api/v1/rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}
