"""The SDK in real worker processes: after the fork, to a real receiver, flushed at the end."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dramatiq import Message

from bench.otlp import Receiver
from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from broker.errors import SettingsError
from otel.metrics import BUCKETS_TO_AN_HOUR
from otel.sdk import FLUSH_S
from otel.settings import ExportSettings, TelemetrySettings
from tests.conftest import NewBroker
from tests.ports import free_port
from tests.processes import ROOT, Launcher
from tests.waiting import PATIENCE_S, eventually

MODULE = """\
import os
import dramatiq
from broker import StreamsBroker
from otel.sdk import Sdk, Service
from otel.settings import ExportSettings, TelemetrySettings
from otel.stack import layers
from dramatiq.middleware import Retries

found = layers(
    TelemetrySettings(), Service("shop", "worker", "development"), ExportSettings.load()
)
broker = StreamsBroker(
    url={url!r}, namespace={namespace!r}, middleware=[*found.above, Retries(), *found.below]
)
dramatiq.set_broker(broker)

@dramatiq.actor(queue_name="mail")
def greet(name):
    print("greeted", name, os.getpid(), flush=True)
"""


@pytest.fixture(params=["grpc", "http/protobuf"])
def receiver(request: pytest.FixtureRequest) -> Iterator[Receiver]:
    """An endpoint of each protocol in turn."""
    with Receiver(request.param) as started:
        yield started


@pytest.fixture
def source(valkey_server: EmbeddedValkey, namespace: str) -> str:
    return MODULE.format(url=valkey_server.url, namespace=namespace)


@pytest.fixture
def producer(valkey_server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    made = new_broker("streams", valkey_server.url, middleware=[])
    assert isinstance(made, StreamsBroker)
    return made


def send(producer: StreamsBroker, *names: str) -> None:
    for name in names:
        producer.enqueue(
            Message(queue_name="mail", actor_name="greet", args=(name,), kwargs={}, options={})
        )


def test_each_worker_process_exports_says_which_it_is_and_leaves_nothing_behind(
    source: str, receiver: Receiver, launch: Launcher, producer: StreamsBroker
) -> None:
    environment = receiver.environment | {
        "OTEL_BSP_SCHEDULE_DELAY": "600000",  # so what is exported is exported at the end
        "OTEL_METRIC_EXPORT_INTERVAL": "600000",
        "OTEL_RESOURCE_ATTRIBUTES": "team=blue,host.name=box",
    }
    workers = launch(source, processes=2, threads=1, environment=environment)
    pids = workers.wait_until_ready()
    send(producer, *map(str, range(20)))
    workers.wait_for_log("greeted", count=20)
    assert receiver.received.spans() == []
    assert workers.terminate() == 0
    spans = receiver.received.wait_for_spans("process mail", 20)
    assert {span.resource["process.pid"] for span in spans} <= set(pids)
    instances = {span.resource["service.instance.id"] for span in spans}
    assert len(instances) == len({span.resource["process.pid"] for span in spans})
    resource = spans[0].resource
    assert (resource["team"], resource["host.name"]) == ("blue", "box")
    assert resource["service.name"] == "shop-worker"
    assert resource["service.namespace"] == "shop"
    assert resource["deployment.environment.name"] == "development"


def test_a_scheduler_exports_its_fires_before_it_ends(
    source: str, tmp_path: Path, producer: StreamsBroker
) -> None:
    module = source.replace("Retries(),", "Retries(), Periodic(),")
    module = module.replace('queue_name="mail"', 'queue_name="mail", periodic=cron("* * * * * *")')
    (tmp_path / "clock.py").write_text(
        "from middleware.periodic import Periodic, cron\n" + module, encoding="utf-8"
    )
    with Receiver("http/protobuf") as receiver:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "periodiq"), "clock"],
            cwd=tmp_path,
            env={
                **os.environ,
                **receiver.environment,
                "OTEL_BSP_SCHEDULE_DELAY": "600000",  # so what is exported is exported at the end
                "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
            },
            stderr=subprocess.DEVNULL,
        )
        try:
            eventually(lambda: producer.inspector.size("mail"), bool, what="a fire")
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
            process.wait()
        (send, *_) = receiver.received.wait_for_spans("send mail")
    assert send.resource["service.name"] == "shop-scheduler"


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("away", ["refused", "silent"])
def test_a_dead_collector_does_not_hold_up_the_end(
    source: str, launch: Launcher, producer: StreamsBroker, away: str
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if away == "silent":
            listener.listen()  # accepts in the kernel, and nobody ever answers
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        workers = launch(source, environment={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})
        workers.wait_until_ready()
        send(producer, "one")
        workers.wait_for_log("greeted")
        begin = time.monotonic()
        assert workers.terminate() == 0
        assert time.monotonic() - begin < 10
        assert "could not be exported" in workers.log


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize(
    ("protocol", "is_silent"), [("grpc", False), ("http/protobuf", True)], ids=["refused", "silent"]
)
def test_a_dead_collector_does_not_hold_up_the_end_of_a_program(
    valkey_server: EmbeddedValkey, namespace: str, protocol: str, is_silent: bool
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if is_silent:
            listener.listen()
        environ = {
            "REDIS_URL": valkey_server.url,
            "QUEUE_PREFIX": namespace,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{listener.getsockname()[1]}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_METRIC_EXPORT_INTERVAL": "100",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "otel"],
            cwd=ROOT,
            env={**os.environ, **environ},
            stderr=subprocess.PIPE,
        )
        try:
            assert process.stderr is not None
            if is_silent:
                listener.settimeout(PATIENCE_S)
                listener.accept()
            else:
                process.stderr.readline()  # that it could not be exported
            begin = time.monotonic()
            process.terminate()
            assert process.wait(60) == 0
            assert time.monotonic() - begin < FLUSH_S + 3
        finally:
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    ("environ", "traces", "metrics"),
    [
        ({}, (), ()),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"},
            ("otlp_proto_grpc",),
            ("otlp_proto_grpc",),
        ),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4317"}, ("otlp_proto_grpc",), ()),
        (
            {
                "OTEL_TRACES_EXPORTER": "otlp,console",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            },
            ("otlp_proto_http", "console"),
            (),
        ),
        (
            {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"},
            (),
            ("otlp_proto_grpc",),
        ),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, (), ()),
    ],
)
def test_what_is_exported_is_what_the_variables_say(
    environ: dict[str, str], traces: tuple[str, ...], metrics: tuple[str, ...]
) -> None:
    enabled = "OTEL_SDK_DISABLED" not in environ
    expected = ExportSettings(enabled=enabled, traces=traces, metrics=metrics)
    assert ExportSettings.load(environ) == expected


@pytest.mark.parametrize("name", ["OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"])
def test_whoever_says_how_many_spans_wait_is_obeyed(name: str) -> None:
    assert not ExportSettings.load({}).sdks_batches
    assert ExportSettings.load({name: "1000"}).sdks_batches


def test_a_dead_collectors_spans_wait_only_up_to_a_bound(tmp_path: Path) -> None:
    after = """\
import os, sys, tracemalloc
def run(times):
    for _ in range(times):
        trace.get_tracer("x").start_span("one", attributes={"text": "x" * 10_000 + str(_)}).end()
run(2_000)
tracemalloc.start()
run(2_000)
print(tracemalloc.get_traced_memory()[0] < (512 + 128) * 16_000)
sys.stdout.flush()
os._exit(0)  # or the exporter would try for seconds"""
    environ = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    assert _run(tmp_path, environ | {"OTEL_METRICS_EXPORTER": "none"}, after=after) == "True\n"


def test_a_protocol_without_an_exporter_is_refused() -> None:
    environ = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}
    with pytest.raises(SettingsError, match="OTEL_EXPORTER_OTLP_PROTOCOL.*grpc.*http/json"):
        ExportSettings.load(environ)


def test_a_slip_in_the_telemetry_table_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"telemetry\.relation.*siblings"):
        TelemetrySettings.load({"relation": "siblings"})


SET_UP = """\
from opentelemetry import trace
from otel.sdk import Sdk, Service
from otel.settings import ExportSettings, TelemetrySettings
{before}
sdk = Sdk.set_up(Service("shop", "web", "development"), TelemetrySettings(), ExportSettings.load())
{after}
"""


def test_a_process_that_is_no_worker_uses_any_exporter_and_any_sampler(tmp_path: Path) -> None:
    after = """\
with trace.get_tracer("x").start_as_current_span("one"): pass
with trace.use_span(trace.NonRecordingSpan(trace.SpanContext(1, 1, True, trace.TraceFlags(1)))):
    with trace.get_tracer("x").start_as_current_span("two"): pass
sdk.flush()"""
    environ = {
        "OTEL_TRACES_EXPORTER": "console",
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
        "OTEL_SERVICE_NAME": "billing",
    }
    printed = _run(tmp_path, environ, after=after)
    assert '"name": "two"' in printed
    assert '"name": "one"' not in printed
    assert '"service.name": "billing"' in printed


@pytest.mark.parametrize(
    ("variable", "value", "temporality", "is_exponential", "exemplars"),
    [
        ("OTEL_SERVICE_NAME", "ours", 2, False, 1),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta", 1, False, 1),
        (
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            "base2_exponential_bucket_histogram",
            *(2, True, 1),
        ),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "always_off", 2, False, 0),
    ],
)
def test_what_the_variables_say_of_histograms_holds_for_the_time_of_a_run(
    tmp_path: Path,
    variable: str,
    value: str,
    temporality: int,
    is_exponential: bool,
    exemplars: int,
) -> None:
    before = """\
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
OTLPMetricExporter.export = lambda self, data, **_: print(data.to_json(indent=None))"""
    after = """\
from dramatiq import Message, MessageProxy
from otel.metrics import Metrics
run, measure = MessageProxy(Message("mail", "greet", (), {}, {})), Metrics()
sampled = trace.SpanContext(1, 1, False, trace.TraceFlags(1))
with trace.use_span(trace.NonRecordingSpan(sampled)):
    measure.before_process_message(None, run)
    measure.after_process_message(None, run)
sdk.flush()"""
    printed = _run(
        tmp_path,
        {
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_METRIC_EXPORT_INTERVAL": "600000",
            variable: value,
        },
        before,
        after,
    )
    (scope,) = json.loads(printed.splitlines()[0])["resource_metrics"][0]["scope_metrics"]
    data = {metric["name"]: metric["data"] for metric in scope["metrics"]}
    measured = data["messaging.process.duration"]
    (point,) = measured["data_points"]
    assert measured["aggregation_temporality"] == temporality
    assert ("scale" in point) is is_exponential
    if not is_exponential:
        assert point["explicit_bounds"] == list(BUCKETS_TO_AN_HOUR)
    assert len(point["exemplars"]) == exemplars


MEASURED = """\
from dramatiq import Message, MessageProxy
from otel.metrics import Metrics
run, measure = MessageProxy(Message("mail", "greet", (), {}, {})), Metrics()
for _ in range(2):
    measure.before_process_message(None, run)
    measure.after_process_message(None, run)
    sdk.flush()
"""


def test_an_exporter_that_reads_by_itself_sees_the_time_of_a_run(tmp_path: Path) -> None:
    port = free_port()
    after = f"""{MEASURED}
import urllib.request
print(urllib.request.urlopen("http://localhost:{port}/metrics").read().decode())"""
    environ = {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT": str(port)}
    printed = _run(tmp_path, environ, after=after)
    assert re.search(r"^messaging_process_duration_seconds_count\{.*\} 2.0$", printed, re.MULTILINE)


def test_an_exporter_that_prefers_deltas_gets_them(tmp_path: Path) -> None:
    (tmp_path / "pigeon.py").write_text(
        """\
from opentelemetry.sdk.metrics import Histogram
from opentelemetry.sdk.metrics.export import AggregationTemporality, ConsoleMetricExporter

def exporter():
    deltas = {Histogram: AggregationTemporality.DELTA}
    return ConsoleMetricExporter(
        preferred_temporality=deltas, formatter=lambda data: data.to_json(indent=None) + "\\n"
    )
""",
        encoding="utf-8",
    )
    installed = tmp_path / "pigeon-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Name: pigeon\nVersion: 1\n", encoding="utf-8")
    (installed / "entry_points.txt").write_text(
        "[opentelemetry_metrics_exporter]\npigeon = pigeon:exporter\n", encoding="utf-8"
    )
    environ = {"OTEL_METRICS_EXPORTER": "pigeon", "OTEL_METRIC_EXPORT_INTERVAL": "600000"}
    printed = _run(tmp_path, environ, after=MEASURED)
    counts = []
    for line in printed.splitlines():
        for scope in json.loads(line)["resource_metrics"][0]["scope_metrics"]:
            data = {metric["name"]: metric["data"] for metric in scope["metrics"]}
            if (measured := data.get("messaging.process.duration")) is not None:
                assert measured["aggregation_temporality"] == 1
                counts += [point["count"] for point in measured["data_points"]]
    assert counts == [1, 1]


def test_a_worker_that_can_not_set_its_metrics_up_says_so_and_exports_its_spans(
    source: str, launch: Launcher, producer: StreamsBroker
) -> None:
    with Receiver("http/protobuf") as receiver, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()  # as the first worker process of a host does
        environment = receiver.environment | {
            "OTEL_METRICS_EXPORTER": "prometheus",
            "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
            "OTEL_EXPORTER_PROMETHEUS_PORT": str(taken.getsockname()[1]),
            "OTEL_BSP_SCHEDULE_DELAY": "600000",  # so what is exported is exported at the end
        }
        workers = launch(source, environment=environment)
        workers.wait_for_log(r"\[ERROR\] Telemetry is not complete: OTEL_METRICS_EXPORTER.*in use")
        workers.wait_until_ready()
        send(producer, "one")
        workers.wait_for_log("greeted")
        assert workers.terminate() == 0
        receiver.received.wait_for_spans("process mail")


def test_an_applications_own_provider_is_left_alone(tmp_path: Path) -> None:
    before = """\
from opentelemetry.sdk.trace import TracerProvider
own = TracerProvider()
trace.set_tracer_provider(own)"""
    after = "print(trace.get_tracer_provider() is own)"
    assert _run(tmp_path, {"OTEL_TRACES_EXPORTER": "console"}, before, after) == "True\n"


OWN = """\
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

own = Resource.create({"service.name": "own", "service.instance.id": "1"})
tracer_provider = TracerProvider(resource=own)
tracer_provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(tracer_provider)
reader = PeriodicExportingMetricReader(OTLPMetricExporter())
metrics.set_meter_provider(MeterProvider([reader], resource=own))
"""


@pytest.mark.parametrize("order", ["before", "after"])
def test_an_applications_own_providers_are_the_only_ones_of_a_worker_and_flushed_at_its_end(
    source: str, launch: Launcher, producer: StreamsBroker, order: str
) -> None:
    source = OWN + source if order == "before" else source + OWN
    with Receiver("http/protobuf") as receiver:
        environment = receiver.environment | {
            "OTEL_BSP_SCHEDULE_DELAY": "600000",  # so what is exported is exported at the end
            "OTEL_METRIC_EXPORT_INTERVAL": "600000",
        }
        workers = launch(source, environment=environment)
        workers.wait_until_ready()
        send(producer, "one")
        workers.wait_for_log("greeted")
        assert workers.terminate() == 0
        (run,) = receiver.received.wait_for_spans("process mail")
        (point,) = receiver.received.wait_for_points("messaging.process.duration")
    assert (run.resource["service.name"], point.resource["service.name"]) == ("own", "own")
    assert point.count == 1
    assert "Overriding" not in workers.log


def test_an_exporter_that_is_not_installed_is_named(tmp_path: Path) -> None:
    after = "raise AssertionError"
    with pytest.raises(AssertionError, match=r"OTEL_TRACES_EXPORTER.*'carrier-pigeon'"):
        _run(tmp_path, {"OTEL_TRACES_EXPORTER": "carrier-pigeon"}, after=after)


def _run(folder: Path, environ: dict[str, str], before: str = "", after: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", SET_UP.format(before=before, after=after)],
        env={**os.environ, **environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
