"""compose.yaml, the Dockerfile and the stack's configuration, as far as they can be checked here.

No container is run: ``docs/telemetry.md`` says what that leaves open.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dramatiq
import pytest
import redis
from dramatiq.cli import make_argument_parser
from dramatiq.middleware import CurrentMessage, Retries
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from broker.health import consumers
from broker.schedule import Schedule
from dashboard.passwords import hashed
from middleware.scheduler import Scheduler
from otel.dashboards import files
from otel.gauges import QueueGauges
from otel.sdk import FLUSH_S
from otel.settings import TelemetrySettings
from tests.conftest import StartWorker
from tests.otel.tools import load_yaml, run
from tests.ports import free_port
from tests.processes import ROOT
from tests.servers import redis_binary
from tests.waiting import PATIENCE_S, eventually

COMPOSE: dict[str, Any] = load_yaml(ROOT / "compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CONFIG = ROOT / "otel" / "config"
OUR_IMAGE = COMPOSE["x-headrace"]["image"]
#: Unless OTEL_METRIC_EXPORT_INTERVAL says otherwise.
SDKS_EXPORT_INTERVAL_MS = 60_000
#: What the broker gives the last settlements, in seconds.
SETTLE_S = 5.0
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


def mounts() -> Iterator[tuple[str, str]]:
    """Service and host path of everything that is mounted from the repository."""
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            if volume.startswith("."):
                yield name, volume.split(":")[0]


def test_compose_keeps_the_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema"]
    command += ["--builtin-schema", "vendor.compose-spec", str(ROOT / "compose.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_pinned_hardened_and_bounded(name: str) -> None:
    service = SERVICES[name]
    if service["image"] != OUR_IMAGE:
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*", service["image"])
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]), "a number, and not root"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"pids_limit", "mem_limit", "cpus"} <= set(service)
    assert service["logging"]["driver"] in ("local", "fluentd"), "json-file grows without end"
    assert not {"privileged", "network_mode", "pid", "cap_add"} & set(service)
    assert "docker.sock" not in str(service)
    assert "inside" in service["networks"]
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), "open to this host only"
        assert "outside" in service["networks"], "an internal network publishes nothing"


def test_who_waits_for_health_waits_for_somebody_who_tells() -> None:
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other], (name, other)
    # Restarted too: it reads the users only when it starts.
    written = {"condition": "service_completed_successfully", "restart": True}
    assert SERVICES["redis"]["depends_on"]["users"] == written
    telemetry = {"collector", "tempo", "loki", "prometheus", "grafana"}
    for name in ("worker", "scheduler-1", "scheduler-2", "gauges", "dashboard"):
        assert not telemetry & SERVICES[name]["depends_on"].keys(), "jobs run without it"
    without = {name for name, service in SERVICES.items() if "healthcheck" not in service}
    without.remove("users")  # it ends
    assert without == {"collector"}  # nothing in its image could ask
    for name, last in (("tempo", (2, 9)), ("loki", (3, 5))):
        version = re.findall(r"\d+", SERVICES[name]["image"])
        assert (int(version[0]), int(version[1])) <= last, "has no busybox to ask with"
    scraped = load_yaml(CONFIG / "prometheus" / "prometheus.yml")["scrape_configs"][0]
    targets = {each.split(":")[0] for each in scraped["static_configs"][0]["targets"]}
    assert without <= targets


def test_everything_that_is_mounted_is_there_and_can_be_read() -> None:
    assert len(list(mounts())) >= 8
    for name, path in mounts():
        found = ROOT / path
        files = [each for each in found.rglob("*") if each.is_file()] if found.is_dir() else [found]
        assert files, (name, path)
        for file in files:
            assert file.is_file(), (name, path)
            if file.suffix in (".yml", ".yaml"):
                load_yaml(file)


def test_secrets_are_files_that_are_not_committed() -> None:
    for secret in COMPOSE["secrets"].values():
        assert secret["file"].startswith("./secrets/")
    assert "/secrets/" in (ROOT / ".gitignore").read_text("utf-8").splitlines()
    for service in SERVICES.values():
        for variable, value in (service.get("environment") or {}).items():
            if re.search("PASSWORD|TOKEN|KEY", variable):
                assert str(value).startswith("/run/secrets/")
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])


def test_grafana_downloads_nothing() -> None:
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_PLUGINS_PREINSTALL_DISABLED"] == "true"
    for asks in ("REPORTING_ENABLED", "CHECK_FOR_UPDATES", "CHECK_FOR_PLUGIN_UPDATES"):
        assert environment[f"GF_ANALYTICS_{asks}"] == "false"


def test_a_worker_has_longer_to_stop_than_it_needs() -> None:
    worker = SERVICES["worker"]
    arguments = make_argument_parser().parse_args(worker["command"][1:])
    drain_s = arguments.worker_shutdown_timeout / 1000
    grace_s = int(worker["stop_grace_period"].removesuffix("s"))
    assert grace_s > drain_s + SETTLE_S + FLUSH_S


def test_every_secret_is_one_that_make_secrets_makes() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    (line,) = re.findall(r"^PASSWORDS := (.*)$", makefile, re.MULTILINE)
    made = {f"{name}_password" for name in line.split()} | {"dashboard_users"}
    assert set(COMPOSE["secrets"]) <= made


def test_secrets_are_read_by_containers_and_by_nobody_else_on_the_host(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    for name in ("requirements.lock", "pyproject.toml", "ready"):
        (tmp_path / name).touch()
    command = ["make", "secrets", f"VENV={sys.prefix}", "STAMP=ready"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    made = tmp_path / "secrets"
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    for secret in COMPOSE["secrets"].values():
        file = tmp_path / secret["file"]
        assert file.stat().st_size > 0
        assert stat.S_IMODE(file.stat().st_mode) == 0o644, "read by numbers that the host knows not"


def test_one_service_builds_the_image_of_all_and_starts_before_them() -> None:
    """Several would export it under one name at once, which BuildKit refuses."""
    ours = {name for name, service in SERVICES.items() if service["image"] == OUR_IMAGE}
    assert len(ours) > 1
    assert [name for name, service in SERVICES.items() if "build" in service] == ["users"]
    for name in ours - {"users"}:
        assert SERVICES[name]["pull_policy"] == "never", "nobody else's image of that name"
        assert "users" in _starts_after(name)


def _starts_after(name: str) -> set[str]:
    first = set(SERVICES[name].get("depends_on", {}))
    return first.union(*map(_starts_after, first))


def test_two_schedulers_run() -> None:
    commands = [service.get("command") for service in SERVICES.values()]
    assert commands.count(["periodiq", "actors"]) == 2


def test_the_image_has_what_the_lock_says_and_nobodys_root() -> None:
    whole = _locked(ROOT / "requirements.lock")
    image = _locked(ROOT / "lock" / "image.lock")
    assert image.items() <= whole.items()
    assert not {"pytest", "mypy", "ruff", "uvicorn"} & set(image)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = {re.split(r"[\[<>=~! ]", each)[0].lower() for each in project["dependencies"]}
    assert needed <= {name.lower() for name in image}, "make lock"
    assert "--require-hashes" in DOCKERFILE
    stages = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(stages) == 2
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", stage) for stage in stages)
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    for copied in re.findall(r"^COPY ([^-].*) \S+$", DOCKERFILE, re.MULTILINE):
        for path in copied.split():
            assert (ROOT / path).exists(), path
            assert f"!{path}" in (ROOT / ".dockerignore").read_text("utf-8").splitlines(), path


def test_the_image_has_everything_compiled(tmp_path: Path) -> None:
    before, command, after = re.split(
        r"^RUN python (-m compileall .*)$", _joined(DOCKERFILE), flags=re.M
    )
    *options, stdlib, ours = shlex.split(command)
    (version,) = set(re.findall(r"^FROM python:(3\.\d+)", DOCKERFILE, re.MULTILINE))
    assert stdlib == f"/usr/local/lib/python{version}"
    assert f"COPY --from=build {ours} {ours}" in before
    assert "COPY" not in after
    assert "__pycache__" not in after
    # Whatever the times of its files are after a COPY, it counts: its flags say that nobody asks.
    (tmp_path / "x.py").write_text("y = 1\n")
    subprocess.run([sys.executable, *options, str(tmp_path)], check=True, timeout=60)
    (compiled,) = (tmp_path / "__pycache__").iterdir()
    assert compiled.read_bytes()[4:8] == b"\x01\x00\x00\x00"


def test_the_image_is_built_by_nothing_that_floats() -> None:
    assert "# syntax=" not in DOCKERFILE, "an image of its own, by a tag that moves"


def _joined(lines: str) -> str:
    """What a backslash puts off to the next line is part of the one before."""
    return re.sub(r"\\\n\s*", "", lines)


def _locked(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.\[\]-]+)==(\S+)", path.read_text("utf-8"), re.MULTILINE))


def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    for file in ("prometheus.yml", "alerts.yml"):
        text = (CONFIG / "prometheus" / file).read_text("utf-8")
        (tmp_path / file).write_text(text.replace("/etc/prometheus/", ""), encoding="utf-8")
    assert "SUCCESS" in run("promtool", "check", "config", "prometheus.yml", cwd=tmp_path)


def test_every_alert_fires_when_it_should() -> None:
    run("promtool", "test", "rules", "alerts.test.yml", cwd=CONFIG / "prometheus")
    tested = {
        each["alertname"]
        for group in load_yaml(CONFIG / "prometheus" / "alerts.test.yml")["tests"]
        for each in group.get("alert_rule_test", [])
        if each.get("exp_alerts")
    }
    assert tested == set(alerts())


def alerts() -> dict[str, dict[str, Any]]:
    groups = load_yaml(CONFIG / "prometheus" / "alerts.yml")["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def test_a_series_that_ends_does_so_without_a_marker_in_the_tests_of_alerts() -> None:
    """prometheusremotewrite writes one for what a scrape misses, and here nobody scrapes."""
    assert "stale" not in (CONFIG / "prometheus" / "alerts.test.yml").read_text("utf-8")


def test_gauges_are_asked_for_only_where_old_samples_are_left_out() -> None:
    raw = re.compile(r"headrace_(?:queue|schedule|server|worker)_(?!name)\w+")
    groups = load_yaml(CONFIG / "prometheus" / "alerts.yml")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    recorded = set()
    for rule in rules:
        gauges = set(raw.findall(rule["expr"]))
        if gauges:
            assert "timestamp(" in rule["expr"], rule
            assert "headrace:threshold:sample_age_seconds" in rule["expr"], rule
            recorded.add(rule["record"])
    assert len(recorded) == 11
    provisioned = CONFIG / "grafana" / "provisioning" / "datasources" / "headrace.yml"
    for text in (*files().values(), provisioned.read_text("utf-8")):
        assert not raw.findall(text)
        assert set(re.findall(r"headrace:\w+", text)) <= recorded


def test_a_sample_counts_for_longer_than_it_takes_until_the_next_one() -> None:
    rules = load_yaml(CONFIG / "prometheus" / "alerts.yml")["groups"][0]["rules"]
    (age_s,) = [
        float(rule["expr"])
        for rule in rules
        if rule.get("record") == "headrace:threshold:sample_age_seconds"
    ]
    ours_ms = int(COMPOSE["x-environment"]["OTEL_METRIC_EXPORT_INTERVAL"])
    for interval_ms in (SDKS_EXPORT_INTERVAL_MS, TelemetrySettings().gauge_interval, ours_ms):
        assert age_s * 1000 > 1.2 * interval_ms


def test_every_alert_has_a_runbook() -> None:
    page = (ROOT / "docs" / "telemetry.md").read_text("utf-8")
    headings = {title.lower() for title in re.findall(r"^#+ (.*)$", page, re.MULTILINE)}
    for name, rule in alerts().items():
        assert rule["annotations"]["runbook"] == f"docs/telemetry.md#{name.lower()}"
        assert name.lower() in headings


def test_alertmanager_takes_its_configuration() -> None:
    run("amtool", "check-config", str(CONFIG / "alertmanager" / "alertmanager.yml"))
    known = set(alerts())
    text = (CONFIG / "alertmanager" / "alertmanager.yml").read_text("utf-8")
    for name in re.findall(r"alertname = (\w+)", text):
        assert name in known


def test_data_sources_lead_to_each_other() -> None:
    path = CONFIG / "grafana" / "provisioning" / "datasources" / "headrace.yml"
    sources = {each["uid"]: each for each in load_yaml(path)["datasources"]}
    tempo = sources["tempo"]["jsonData"]
    links = {
        tempo["tracesToLogsV2"]["datasourceUid"],
        tempo["tracesToMetrics"]["datasourceUid"],
        tempo["serviceMap"]["datasourceUid"],
        *(each["datasourceUid"] for each in sources["loki"]["jsonData"]["derivedFields"]),
        *(
            each["datasourceUid"]
            for each in sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
        ),
    }
    assert links == {"loki", "prometheus", "tempo"}
    assert tempo["nodeGraph"]["enabled"]
    text = "\n".join(line for line in path.read_text("utf-8").splitlines() if "$" in line)
    assert not re.search(r"(?<!\$)\$(?!\$)", text), "Grafana would put a variable in its place"


def test_the_collectors_pipelines_are_made_of_what_is_configured() -> None:
    config = load_yaml(CONFIG / "collector" / "config.yaml")
    pipelines = config["service"]["pipelines"]
    assert set(pipelines) == {"traces", "metrics", "logs"}
    for kind in ("receivers", "processors", "exporters"):
        used = {name for pipeline in pipelines.values() for name in pipeline[kind]}
        assert used == set(config[kind])
    for pipeline in pipelines.values():
        assert pipeline["processors"][0] == "memory_limiter"
        assert pipeline["processors"][-1] == "batch"
    assert "spanmetrics" not in str(config), "Tempo's generator makes these"


def test_a_services_lines_have_the_name_of_its_spans() -> None:
    roles = {
        name: service["labels"]["headrace.role"]
        for name, service in SERVICES.items()
        if service["logging"]["driver"] == "fluentd"
    }
    assert roles == {
        "worker": "worker",
        "scheduler-1": "scheduler",
        "scheduler-2": "scheduler",
        "gauges": "gauges",
        "dashboard": "dashboard",
    }
    options = COMPOSE["x-logged"]["options"]
    assert options["labels"] == "headrace.role"
    assert options["fluentd-sub-second-precision"] == "true"
    config = load_yaml(CONFIG / "collector" / "config.yaml")
    (group,) = config["processors"]["transform/logs"]["log_statements"]
    named = [each for each in group["statements"] if "${env:" in each]
    assert len(named) == 3
    for statement in named:
        assert statement.endswith(' where log.attributes["headrace.role"] != nil'), "OTLP has none"


def test_tempos_generator_is_on() -> None:
    config = load_yaml(CONFIG / "tempo" / "tempo.yaml")
    assert SERVICES["tempo"]["image"].startswith("grafana/tempo:2.")
    on = config["overrides"]["defaults"]["metrics_generator"]["processors"]
    assert set(on) == {"service-graphs", "span-metrics"}
    generator = config["metrics_generator"]
    assert generator["processor"]["service_graphs"]["enable_messaging_system_latency_histogram"]
    (target,) = generator["storage"]["remote_write"]
    assert target["send_exemplars"]
    flags = SERVICES["prometheus"]["command"]
    assert "--web.enable-remote-write-receiver" in flags
    assert "--enable-feature=exemplar-storage" in flags


@contextmanager
def started(name: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """A service's command as a process of this machine."""
    process = subprocess.Popen(
        SERVICES[name]["command"], cwd=ROOT, env=_environ(environ), stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE_S)


def _environ(own: Mapping[str, str]) -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, **own}


def freeze(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)


@pytest.mark.parametrize("name", ["scheduler-1", "gauges"])
def test_a_process_that_is_frozen_is_unhealthy_whatever_others_do(
    name: str, valkey_server: EmbeddedValkey, namespace: str, tmp_path: Path
) -> None:
    (tmp_path / "settings.toml").write_text("[telemetry]\ngauge_interval = 2000\n")
    environ = {
        "REDIS_URL": valkey_server.url,
        "QUEUE_PREFIX": namespace,
        "HEADRACE_SETTINGS": str(tmp_path / "settings.toml"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
    }
    mine, other = tmp_path / "mine", tmp_path / "other"
    assert "HEADRACE_HEARTBEAT_FILE" in SERVICES[name]["environment"]

    def status() -> int:
        command = SERVICES[name]["healthcheck"]["test"][1:]
        env = _environ({**environ, "HEADRACE_HEARTBEAT_FILE": str(mine)})
        return subprocess.run(
            command, cwd=ROOT, env=env, stderr=subprocess.DEVNULL, check=False
        ).returncode

    assert status() == 1, "nothing was done yet"
    with (
        started(name, HEADRACE_HEARTBEAT_FILE=str(mine), **environ) as process,
        started(name, HEADRACE_HEARTBEAT_FILE=str(other), **environ),
    ):
        eventually(status, lambda code: code == 0, what="a healthy process")
        freeze(process)
        os.utime(mine, (1, 1))  # much later
        assert status() == 1
        process.send_signal(signal.SIGCONT)
        eventually(status, lambda code: code == 0, what="a healthy process again")


def test_a_dashboard_that_is_frozen_is_unhealthy(namespace: str) -> None:
    port = free_port()
    environ = {
        "REDIS_URL": "redis://127.0.0.1:1",
        "QUEUE_PREFIX": namespace,
        "HEADRACE_DASHBOARD_PORT": str(port),
        "HEADRACE_DASHBOARD_USERS": f"olga:operator:{hashed('secret')}",
    }

    def status() -> int:
        program, *arguments = SERVICES["dashboard"]["healthcheck"]["test"][1:]
        said = [each.replace("8000", str(port)) for each in arguments]
        return subprocess.run(
            [program, *said], env=_environ({}), stderr=subprocess.DEVNULL, check=False
        ).returncode

    assert status() == 1, "nobody listens yet"
    with started("dashboard", **environ) as process:
        eventually(status, lambda code: code == 0, what="a healthy dashboard")
        freeze(process)
        assert status() == 1


@pytest.fixture
def composed_redis(tmp_path: Path) -> Iterator[str]:
    """A server with the users and by the command that compose.yaml has; its address."""
    redis_binary()
    for folder in ("secrets", "users", "data"):
        (tmp_path / folder).mkdir()
    for role in ("worker", "scheduler", "admin"):
        (tmp_path / "secrets" / f"redis_{role}_password").write_text(f"p@ss {role}\n")
    script = (CONFIG / "redis" / "users.sh").read_text("utf-8")
    script = script.replace("/run/", f"{tmp_path}/").replace("/users/", f"{tmp_path}/users/")
    environ = _environ({"QUEUE_PREFIX": "chatgenius"})
    subprocess.run(["sh", "-c", script], env=environ, check=True, timeout=60)
    command = [
        part.replace("/users/", f"{tmp_path}/users/").replace("/data", f"{tmp_path}/data")
        for part in SERVICES["redis"]["command"]
    ]
    port = free_port()
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log)
        try:
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


def test_redis_is_healthy_only_if_it_answers_without_an_error(composed_redis: str) -> None:
    program, *arguments = SERVICES["redis"]["healthcheck"]["test"][1:]
    where = ["-p", composed_redis.split(":")[1]]

    def status(user: str) -> int:
        said = [user if each == "health" else each for each in arguments]
        done = subprocess.run([program, *where, *said], capture_output=True, check=False)
        return done.returncode

    eventually(lambda: status("health"), lambda code: code == 0, what="a healthy server")
    assert status("nobody") == 1, "NOAUTH is an answer as well"


def test_each_process_works_as_its_own_user(
    composed_redis: str, start_worker: StartWorker, reader: InMemoryMetricReader
) -> None:
    health = redis.Redis.from_url(f"redis://health:none@{composed_redis}")
    eventually(lambda: _answers(health), bool, what="the server")
    with pytest.raises(redis.exceptions.NoPermissionError):
        health.get("{chatgenius}:queues")
    with pytest.raises(redis.exceptions.AuthenticationError):
        redis.Redis.from_url(f"redis://{composed_redis}").get("x")

    def broker_of(role: str) -> StreamsBroker:
        login = f"headrace-{role}:{quote(f'p@ss {role}')}"
        middleware = [CurrentMessage(), Retries(max_retries=1, min_backoff=1, max_backoff=1)]
        url = f"redis://{login}@{composed_redis}"
        return StreamsBroker(url=url, namespace="chatgenius", middleware=middleware)

    worker = broker_of("worker")
    done: list[str] = []

    @dramatiq.actor(broker=worker, queue_name="mail")
    def greet(name: str) -> None:
        if name == "flaky" and not CurrentMessage.get_current_message().options.get("retries"):  # type: ignore[union-attr]
            raise ValueError
        done.append(name)

    greet.send("now")
    greet.send("flaky")
    greet.send_with_options(args=("later",), delay=50)
    tick = Schedule(name="tick", queue="mail", actor="greet", cron="* * * * * *", args=("tick",))
    scheduler = Scheduler(broker_of("scheduler"), [tick])
    start_worker(worker)
    eventually(
        lambda: scheduler.tick() and sorted(set(done)),
        lambda names: names == ["flaky", "later", "now", "tick"],
        what="all jobs",
    )
    gauges = QueueGauges(worker, MeterProvider([reader]).get_meter("x"), interval_ms=50)
    gauges.start()
    assert eventually(reader.get_metrics_data, bool, what="the gauges of the worker's user")
    gauges.stop()
    assert consumers(worker) is None
    assert broker_of("admin").inspector.queues() == ["mail"]
    (memory,) = worker.inspector.servers()
    assert (memory.limit, memory.evicts) == (768 * 1024 * 1024, False)
    for forbidden in (("GET", "other"), ("CONFIG", "GET", "*"), ("FLUSHALL",), ("KEYS", "*")):
        with pytest.raises(redis.exceptions.NoPermissionError):
            worker.client.execute_command(*forbidden)


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.exceptions.RedisError:
        return False
