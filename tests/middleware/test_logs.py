"""A job's steps as lines, and every line of a worker process in one shape, without arguments."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import dramatiq
import msgspec
import pytest
from dramatiq import Message
from dramatiq.errors import Retry
from dramatiq.middleware import SkipMessage
from dramatiq.middleware.middleware import Middleware
from opentelemetry.sdk.trace import TracerProvider

from actors.app import build_broker, settings
from bench.otlp import Receiver
from broker import RateLimited, StreamsBroker
from broker.embedded import EmbeddedValkey
from middleware.correlation import correlation
from middleware.encryption import Encryption
from middleware.log_lines import ConsoleLines, JsonLines
from tests.conftest import StartWorker
from tests.contract.recording import Seen
from tests.middleware.sealed import RING
from tests.processes import ROOT, Launcher
from tests.waiting import PATIENCE_S, eventually, wait_for

CANARY = "canary-7f3a\nsecond line"
QUEUE = "reports"


class Data(msgspec.Struct, forbid_unknown_fields=True):
    """The ``data`` of the spec's four events."""

    queueName: str | msgspec.UnsetType = msgspec.UNSET  # noqa: N815 - the spec's
    jobId: str | msgspec.UnsetType = msgspec.UNSET  # noqa: N815
    duration: int | msgspec.UnsetType = msgspec.UNSET
    error: str | msgspec.UnsetType = msgspec.UNSET


class LogFormat(msgspec.Struct, forbid_unknown_fields=True):
    """The spec's interface, to the letter, and the ids of a span."""

    timestamp: str
    correlationId: str  # noqa: N815 - the spec's
    level: Literal["debug", "info", "warn", "error"]
    event: Literal["job_queued", "job_completed", "job_failed", "queue_error"]
    data: Data | msgspec.UnsetType = msgspec.UNSET
    trace_id: str | msgspec.UnsetType = msgspec.UNSET
    span_id: str | msgspec.UnsetType = msgspec.UNSET


class Lines(logging.StreamHandler[Any]):
    """Keeps what a worker process would write."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())
        self.setFormatter(JsonLines())
        self.seen = Seen()

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.add(json.loads(self.format(record)))

    def until(self, event: str) -> list[dict[str, Any]]:
        """Every line up to the next one of this event, which is the last."""
        found = [self.seen.next()]
        while found[-1]["event"] != event:
            found.append(self.seen.next())
        return found


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    log = logging.getLogger("headrace.jobs")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    yield handler
    log.setLevel(logging.NOTSET)
    log.removeHandler(handler)


def test_a_completed_job_is_queued_and_completed_in_the_specs_own_format(
    broker: StreamsBroker, lines: Lines, start_worker: StartWorker
) -> None:
    @dramatiq.actor(queue_name=QUEUE)
    def make(label: str) -> None:
        with TracerProvider().get_tracer("").start_as_current_span("inside") as span:
            log_span(span)

    def log_span(span: Any) -> None:
        logging.getLogger("headrace.jobs").warning("in a span")

    with correlation("request-1"):
        message = make.send(CANARY)
    start_worker(broker)
    queued, started, inside, completed = lines.until("job_completed")
    for line in (queued, completed):
        typed = msgspec.convert(line, LogFormat)
        assert typed.correlationId == "request-1"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", typed.timestamp)
        assert typed.data != msgspec.UNSET
        assert (typed.data.queueName, typed.data.jobId) == (QUEUE, message.message_id)
    assert completed["data"]["duration"] >= 0
    assert started["level"] == "debug"
    assert started["data"] | {"actor": "make", "attempt": 1} == started["data"]
    assert re.fullmatch("[0-9a-f]{32}", inside["trace_id"])
    assert re.fullmatch("[0-9a-f]{16}", inside["span_id"])
    assert inside["data"]["jobId"] == message.message_id


def test_a_failing_job_is_retried_and_dies_line_by_line(
    broker: StreamsBroker, lines: Lines, start_worker: StartWorker
) -> None:
    @dramatiq.actor(queue_name=QUEUE, max_retries=1, min_backoff=2, max_backoff=2)
    def fail(label: str) -> None:
        raise ValueError(f"no good: {label}")

    message = fail.send_with_options(args=(CANARY,), delay=10, correlation_id="request-1")
    start_worker(broker)
    found = lines.until("job_dead")
    assert [line["event"] for line in found] == [
        *("job_scheduled", "job_started", "job_failed", "job_retrying"),
        *("job_started", "job_failed", "job_dead"),
    ]
    assert {line["correlationId"] for line in found} == {"request-1"}
    assert {line["data"]["jobId"] for line in found} == {message.message_id}
    scheduled, _, failed, retrying, _, _, dead = found
    assert scheduled["data"]["delay"] == 10
    assert msgspec.convert(failed, LogFormat).level == "error"
    assert failed["data"]["error"] == "ValueError: no good: ***"
    assert retrying["data"]["attempt"] == 2
    assert retrying["data"]["delay"] in (1, 2)
    assert dead["data"]["error"] == "ValueError: no good: ***"
    assert dead["data"]["actor"] == "fail"


def test_a_job_that_asks_for_another_time_has_not_failed(
    broker: StreamsBroker, lines: Lines, start_worker: StartWorker
) -> None:
    @dramatiq.actor(queue_name=QUEUE)
    def postpone() -> None:
        raise Retry(delay=60_000)

    postpone.send()
    start_worker(broker)
    events = [line["event"] for line in lines.until("job_retrying")]
    assert events == ["job_queued", "job_started", "job_retrying"]


def test_a_skipped_job_is_neither_completed_nor_failed(
    broker: StreamsBroker, lines: Lines, start_worker: StartWorker
) -> None:
    class SkipAll(Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            raise SkipMessage

    @dramatiq.actor(queue_name=QUEUE)
    def never() -> None: ...

    broker.add_middleware(SkipAll())
    never.send()
    start_worker(broker)
    events = [line["event"] for line in lines.until("job_skipped")]
    assert events == ["job_queued", "job_started", "job_skipped"]


def test_a_parked_job_is_no_skipped_one(
    broker: StreamsBroker, lines: Lines, start_worker: StartWorker
) -> None:
    @dramatiq.actor(queue_name=QUEUE)
    def busy() -> None:
        raise RateLimited(60_000)

    busy.send()
    start_worker(broker)
    (parked,) = [line for line in lines.until("job_parked") if "delay" in line["data"]]
    assert parked["data"]["delay"] == 60_000


def test_a_cancelled_job_has_not_failed(
    broker: StreamsBroker, lines: Lines, start_worker: StartWorker
) -> None:
    running = threading.Event()

    @dramatiq.actor(queue_name=QUEUE)
    def endless() -> None:
        running.set()
        while True:
            time.sleep(0.01)  # gives way to the interrupt

    message = endless.send()
    start_worker(broker)
    wait_for(running, "the job's start")
    broker.jobs.cancel(message.message_id)
    events = [line["event"] for line in lines.until("job_cancelled")]
    assert events == ["job_queued", "job_started", "job_cancelled"]


@pytest.mark.parametrize("where", ["message", "actor", "actor, of a message in clear"])
def test_an_encrypted_jobs_error_is_its_type_alone(
    broker: StreamsBroker, lines: Lines, start_worker: StartWorker, where: str
) -> None:
    broker.add_middleware(Encryption(RING))
    options: dict[str, Any] = {} if where == "message" else {"encrypted": True}

    @dramatiq.actor(queue_name=QUEUE, max_retries=0, **options)
    def leak(label: str) -> None:
        raise ValueError(f"half of it: {label[:4]}")

    start_worker(broker)
    marked: dict[str, Any] = {"encrypted": True} if where == "message" else {}
    if where == "actor, of a message in clear":
        elsewhere = StreamsBroker(client=broker.client, namespace=broker.namespace, middleware=[])
        elsewhere.enqueue(leak.message(CANARY))
    else:
        leak.send_with_options(args=(CANARY,), **marked)
    found = lines.until("job_dead")
    assert [line["data"]["error"] for line in found if "error" in line["data"]] == [
        "ValueError",
        "ValueError",
    ]


def formatted(record: logging.LogRecord) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(JsonLines().format(record))
    return line


def record(text: object, *args: object, name: str = "lib", **known: Any) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.WARNING, "", 0, text, args, None)
    made.__dict__.update(known)
    return made


def message(**changes: Any) -> Message[None]:
    made: Message[None] = Message(QUEUE, "make", (CANARY,), {"to": [{"a": 1234567}]}, {})
    return made.copy(**changes)


def test_a_message_in_a_text_is_shown_by_actor_and_id(broker: StreamsBroker) -> None:
    of = message()
    line = formatted(record("Message %s was skipped.", of))
    assert line["data"] == {
        "queueName": QUEUE,
        "jobId": of.message_id,
        "message": f"Message make[{of.message_id}] was skipped.",
        "logger": "lib",
    }


def test_arguments_in_texts_and_causes_are_hidden_however_they_are_quoted(
    broker: StreamsBroker,
) -> None:
    of = message()
    try:
        try:
            raise KeyError(CANARY)
        except KeyError as cause:
            raise ValueError(json.dumps([*of.args, *of.kwargs["to"]])) from cause
    except ValueError as error:
        shown = record("%s and %s: %s", of, [CANARY], error)
        shown.exc_info = (ValueError, error, error.__traceback__)
        line = JsonLines().format(shown)
    assert "canary" not in line
    assert "1234567" not in line
    trace = json.loads(line)["data"]["error"]
    assert trace.endswith('ValueError: ["***", {"a": ***}]')
    assert "KeyError: '***'" in trace
    assert "test_logs.py" in trace


def test_a_job_of_too_many_values_shows_no_text(broker: StreamsBroker) -> None:
    line = formatted(record("%s: text", message(args=(list(range(2_000)),))))
    assert line["data"]["message"] == "***"


def test_an_error_of_a_queue_is_in_the_specs_format(broker: StreamsBroker) -> None:
    for name, queue in (
        ("dramatiq.worker.ConsumerThread(mail)", "mail"),
        ("broker.settler.Settler", msgspec.UNSET),
    ):
        typed = msgspec.convert(formatted(record("gone: %s", "x", name=name)), LogFormat)
        assert typed.event == "queue_error"
        assert isinstance(typed.data, Data)
        assert (typed.data.queueName, typed.data.error) == (queue, "gone: x")
    assert formatted(record("x", name="dramatiq.worker.WorkerThread"))["event"] == "log"


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (record("100 %", "surplus"), "100 %"),
        (record("lone \ud800 surrogate"), "lone \ud800 surrogate"),
        (record(b"bytes"), "b'bytes'"),
        (record("long " * 1_000), "long " * 200 + "…"),
    ],
)
def test_no_record_is_too_odd_for_a_line(made: logging.LogRecord, text: str) -> None:
    assert formatted(made)["data"]["message"] == text


def test_what_is_not_on_the_list_stays_out() -> None:
    extra: dict[str, Any] = {
        "event": "thumbnail_made",
        "jobId": "x" * 5_000,
        "secret": CANARY,
        "count": object(),
    }
    data = formatted(record("", **extra))["data"]
    assert set(data) == {"jobId", "count"}
    assert len(data["jobId"]) == 2_001
    assert data["count"] == "object"


def test_people_get_a_line_that_steers_no_terminal() -> None:
    made = record("", event="job_failed", jobId="\x1b[2J", error="Boom: \x07", correlationId="c-1")
    line = ConsoleLines(colors=False).format(made)
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3} \[warning *\] job_failed ", line)
    assert "correlationId=c-1" in line
    assert "\x1b" not in line
    assert "\x07" not in line


WORKER = f"""
import logging, sys, threading, time, warnings
import dramatiq, structlog
from actors import broker

own = logging.getLogger("own")

@dramatiq.actor(queue_name="{QUEUE}", max_retries=0)
def noisy(label):
    print("printed", label)
    print("to stderr", label, file=sys.stderr)
    warnings.warn("careful with " + label)
    own.info("about %s", label)
    structlog.get_logger("own").info("thumbnail_made", count=3, secret=label)
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    raise ValueError("can't do " + label)

@dramatiq.actor(queue_name="{QUEUE}")
def quiet():
    own.info("the end")
"""


def test_every_line_of_a_worker_process_is_json_and_none_shows_an_argument(
    launch: Launcher, valkey_server: EmbeddedValkey, namespace: str
) -> None:
    environment = {"REDIS_URL": valkey_server.url, "QUEUE_PREFIX": namespace}
    workers = launch(WORKER, environment=environment)
    workers.wait_until_ready()
    broker = build_broker(
        msgspec.structs.replace(settings, redis_url=valkey_server.url, queue_prefix=namespace)
    )
    noisy = broker.enqueue(Message(QUEUE, "noisy", (CANARY,), {}, {}))
    eventually(lambda: broker.inspector.queue(QUEUE).dead, lambda dead: dead == 1, what="burial")
    broker.enqueue(Message(QUEUE, "quiet", (), {}, {}))
    broker.close()
    workers.wait_for_log("the end")
    assert workers.terminate() == 0

    own: list[str] = []
    of_main: list[str] = []
    for text in workers.log.splitlines():
        (of_main if "[dramatiq.MainProcess]" in text else own).append(text)
    lines = [json.loads(text) for text in own]
    assert len(of_main) == 2  # it boots, it sends a signal on
    for line in lines:
        assert list(line)[:5] == ["timestamp", "correlationId", "level", "event", "data"]
    assert not re.search("canary|second line", workers.log)

    of_job = [line for line in lines if line["data"].get("jobId") == noisy.message_id]
    assert {line["correlationId"] for line in of_job} == {noisy.message_id}
    texts = [line["data"].get("message", "") for line in of_job]
    for text in ("printed ***", "to stderr ***", "about ***", "Failed to process message"):
        assert any(text in each for each in texts), text
    assert "ZeroDivisionError" in "".join(own)
    made = next(line for line in lines if line["event"] == "thumbnail_made")
    assert made["data"] == {"count": 3}
    assert [line["event"] for line in of_job][-2:] == ["job_failed", "job_dead"]


CLOCK = f"""
import dramatiq
from actors import broker
from middleware.periodic import cron

@dramatiq.actor(queue_name="{QUEUE}", periodic=cron("* * * * * *"))
def tick():
    pass
"""


def test_a_schedulers_lines_are_json_and_that_of_a_fire_leads_to_its_trace(
    valkey_server: EmbeddedValkey, namespace: str, tmp_path: Path
) -> None:
    (tmp_path / "clock.py").write_text(CLOCK, encoding="utf-8")
    broker = StreamsBroker(url=valkey_server.url, namespace=namespace, middleware=[])
    with Receiver("http/protobuf") as receiver:
        scheduler = subprocess.Popen(
            [str(Path(sys.executable).parent / "periodiq"), "clock"],
            cwd=tmp_path,
            env={
                **os.environ,
                **receiver.environment,
                "REDIS_URL": valkey_server.url,
                "QUEUE_PREFIX": namespace,
                "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            eventually(lambda: broker.inspector.size(QUEUE), bool, what="a fire")
            scheduler.terminate()
            _, log = scheduler.communicate(timeout=PATIENCE_S)
            assert scheduler.returncode == 0
        finally:
            scheduler.kill()
            scheduler.wait()
            broker.close()
        sends = receiver.received.wait_for_spans(f"send {QUEUE}")
    texts = log.splitlines()
    own = [text for text in texts if "[periodiq] [INFO]" not in text]  # as it starts
    assert texts[-len(own) :] == own
    lines = [json.loads(text) for text in own]
    assert {"job_queued", "log"} <= {line["event"] for line in lines}
    by_id = {send.attributes["messaging.message.id"]: send for send in sends}
    queued = [line for line in lines if line["event"] == "job_queued"]
    # On a busy machine the exporter may give up a batch: any fire whose span came will do.
    typed = msgspec.convert(
        next(line for line in queued if line["data"]["jobId"] in by_id), LogFormat
    )
    assert isinstance(typed.data, Data)
    send = by_id[typed.data.jobId]
    assert typed.data.queueName == QUEUE
    assert typed.correlationId == send.attributes["messaging.message.conversation_id"]
    assert (typed.trace_id, typed.span_id) == (send.trace_id, send.span_id)


def test_level_and_shape_are_settings(
    launch: Launcher, valkey_server: EmbeddedValkey, namespace: str, tmp_path: Any
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('[logging]\nlevel = "warn"\nformat = "console"\n')
    environment = {
        "REDIS_URL": valkey_server.url,
        "QUEUE_PREFIX": namespace,
        "HEADRACE_SETTINGS": str(file),
    }
    workers = launch(WORKER, environment=environment)
    broker = build_broker(
        msgspec.structs.replace(settings, redis_url=valkey_server.url, queue_prefix=namespace)
    )
    broker.enqueue(Message(QUEUE, "noisy", (CANARY,), {}, {}))
    broker.close()
    workers.wait_for_log(r"\[error *\] job_dead ", timeout_s=PATIENCE_S)
    assert "job_completed" not in workers.log
    assert "ready for action" not in workers.log


ENDS = """
import sys
from broker.process_settings import LoggingSettings
from middleware.log_output import start

start(LoggingSettings(level="error", format="json"))
print("by the way")
print("no such port", file=sys.stderr)
raise LookupError("nowhere")
"""


def test_why_a_program_ends_is_told_at_any_level() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    lines = [json.loads(text) for text in done.stderr.splitlines()]
    assert {line["level"] for line in lines} == {"error"}
    texts = [line["data"]["message"] for line in lines]
    assert (texts[0], texts[-1]) == ("no such port", "LookupError: nowhere")
