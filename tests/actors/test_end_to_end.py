"""The application as it runs: real worker processes, real servers around them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from dramatiq import Message
from PIL import Image

from actors.files import process_file
from actors.inbox import Inbox
from actors.maintenance import run_maintenance
from actors.notifications import send_notification
from actors.payloads import FileJob, MaintenanceJob, Notification
from actors.scheduler import schedule_job
from broker import QueueLimit, StreamsBroker
from broker.embedded import EmbeddedValkey
from tests.actors.servers import Answer, MailServer, PushGateway
from tests.applications import Effects
from tests.processes import ROOT, CommandLine, Launcher
from tests.waiting import QUIET_S, eventually

NOTIFICATIONS = "notification-queue"
FILES = "file-processing-queue"
OWN_JOB = """
from __future__ import annotations
from pathlib import Path
from actors.job import job
from middleware.payload import Payload

class Report(Payload, frozen=True, kw_only=True):
    path: str

@job(queue_name="reports")
def make_report(report: Report) -> None:
    Path(report.path).write_text("made")
"""
HOLD = """
import os, dramatiq, redis
from actors.app import broker, settings

own = redis.Redis.from_url(settings.redis_url, socket_timeout=None)

def note(event, label):
    fields = dict(event=event, id="", label=label, pid=os.getpid())
    own.xadd(broker.namespace + ":effects", fields)

def hold(label):
    note("started", label)
    own.blpop([broker.namespace + ":permission:" + label])
    note("done", label)

for queue in ("bounded", "metered"):
    dramatiq.actor(hold, actor_name="hold_" + queue, queue_name=queue)
"""
SETTINGS = """
[queues.notifications]
attempts = 3
backoff = { type = "fixed", delay = 50 }
[queues.file_processing]
attempts = 2
backoff = { type = "fixed", delay = 50 }
[queues.bounded]
concurrency = 2
global_concurrency = 3
[queues.metered]
rate = { limit = 3, per = 600_000 }
"""


class Start(Protocol):
    """What the fixture `start` is."""

    def __call__(self, source: str = "import actors\n", processes: int = 1) -> CommandLine: ...


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    folder = tmp_path / "storage"
    folder.mkdir()
    return folder


@pytest.fixture
def start(
    launch: Launcher,
    valkey_server: EmbeddedValkey,
    application_broker: StreamsBroker,
    mail_server: MailServer,
    gateway: PushGateway,
    storage: Path,
    tmp_path: Path,
) -> Start:
    """Start `dramatiq` on a module that imports the application, and wait until it works."""
    settings = tmp_path / "settings.toml"
    settings.write_text(SETTINGS)

    def run(source: str = "import actors\n", processes: int = 1) -> CommandLine:
        process = launch(
            source,
            processes=processes,
            threads=4,
            environment={
                "REDIS_URL": valkey_server.url,
                "QUEUE_PREFIX": application_broker.namespace,
                "HEADRACE_SETTINGS": str(settings),
                "SMTP_HOST": "127.0.0.1",
                "SMTP_PORT": str(mail_server.port),
                "SMTP_FROM": "app@chatgenius.example",
                "PUSH_GATEWAY_URL": gateway.url,
                "PUSH_GATEWAY_TOKEN": "t0k",
                "STORAGE_URL": str(storage),
            },
        )
        process.wait_until_ready()
        return process

    return run


@pytest.fixture
def running(start: Start) -> CommandLine:
    return start("import actors\n")


def mail(to: str = "ada@example.org") -> Notification:
    content = {"to": to, "subject": "Welcome", "text": "Hello", "html": "<b>Hello</b>"}
    return Notification(type="email", user_id="u1", payload=content)


def push() -> Notification:
    return Notification(type="push", user_id="u1", payload={"title": "Hi", "body": "there"})


def settled(broker: StreamsBroker, queue: str) -> None:
    def left() -> int:
        info = broker.inspector.queue(queue)
        return info.ready + info.scheduled + info.in_flight

    eventually(left, lambda count: count == 0, what=f"empty {queue}")


def dead(broker: StreamsBroker, queue: str, count: int = 1) -> None:
    eventually(lambda: broker.inspector.queue(queue).dead, lambda n: n == count, what="burial")


def test_a_mail_is_sent_with_the_messages_id(running: CommandLine, mail_server: MailServer) -> None:
    message = send_notification.send(mail())
    received = mail_server.next_mail()
    assert (received["To"], received["Subject"]) == ("ada@example.org", "Welcome")
    assert received["Message-ID"] == f"<{message.message_id}@chatgenius.example>"


def test_a_push_is_repeated_with_the_same_key_until_the_gateway_takes_it(
    running: CommandLine, gateway: PushGateway, application_broker: StreamsBroker
) -> None:
    gateway.answers = [Answer(503), Answer(500)]
    message = send_notification.send(push())
    posts = [gateway.next_post() for _ in range(3)]
    assert {post.headers["Idempotency-Key"] for post in posts} == {message.message_id}
    settled(application_broker, NOTIFICATIONS)
    assert application_broker.inspector.queue(NOTIFICATIONS).dead == 0


def test_the_attempts_of_the_queue_are_the_last_word(
    running: CommandLine, gateway: PushGateway, application_broker: StreamsBroker
) -> None:
    gateway.answers = [Answer(503)] * 9
    send_notification.send(push())
    dead(application_broker, NOTIFICATIONS)
    assert gateway.posted.qsize() == 3


def test_a_refused_push_is_buried_at_once(
    running: CommandLine, gateway: PushGateway, application_broker: StreamsBroker
) -> None:
    gateway.answers = [Answer(410)]
    send_notification.send(push())
    dead(application_broker, NOTIFICATIONS)
    assert gateway.posted.qsize() == 1


def test_an_in_app_notification_is_in_the_users_inbox(
    running: CommandLine, application_broker: StreamsBroker
) -> None:
    note = Notification(type="in-app", user_id="u1", payload={"text": "👋", "big": 2**60})
    message = schedule_job("notifications", note, delay=50)
    inbox = Inbox(application_broker.client, application_broker.namespace, "u1")
    (item,) = eventually(inbox.read, bool, what="inbox")
    assert (item.message_id, item.content) == (message.message_id, note.payload)


@pytest.mark.parametrize(
    ("operation", "options", "result", "size"),
    [
        ("resize", {"width": 20}, "a/photo.20x.png", (20, 10)),
        ("convert", {"format": "webp"}, "a/photo.convert.webp", (80, 40)),
        ("optimize", {"output": "small.png"}, "small.png", (80, 40)),
    ],
)
def test_an_image_is_processed(
    running: CommandLine,
    application_broker: StreamsBroker,
    storage: Path,
    operation: str,
    options: dict[str, object],
    result: str,
    size: tuple[int, int],
) -> None:
    (storage / "a").mkdir()
    Image.new("RGB", (80, 40), "red").save(storage / "a" / "photo.png")
    process_file.send(FileJob(file_id="a/photo.png", operation=operation, options=options))  # type: ignore[arg-type]
    settled(application_broker, FILES)
    with Image.open(storage / result) as image:
        assert image.size == size
        red: tuple[int, ...] = image.convert("RGB").getpixel((5, 5))  # type: ignore[assignment]
        assert red[0] > 240


def test_what_is_no_image_is_buried_and_a_missing_one_is_tried_again(
    running: CommandLine, application_broker: StreamsBroker, storage: Path
) -> None:
    (storage / "text.png").write_text("no image")
    for name in ("text.png", "missing.png"):
        process_file.send(FileJob(file_id=name, operation="optimize", options={}))
    dead(application_broker, FILES, 2)
    letters = application_broker.inspector.dead(FILES)
    retries = {
        letter.message.args[0]["fileId"]: letter.message.options.get("retries", 0)
        for letter in letters
        if letter.message is not None
    }
    assert retries["text.png"] == 0
    assert retries["missing.png"] >= 1


def test_a_bad_payload_from_elsewhere_is_buried_at_once(
    running: CommandLine, application_broker: StreamsBroker
) -> None:
    foreign: Message[None] = Message(
        queue_name=NOTIFICATIONS,
        actor_name="send_notification",
        args=({"type": "fax"},),
        kwargs={},
        options={},
    )
    application_broker.enqueue(foreign)
    dead(application_broker, NOTIFICATIONS)
    (letter,) = application_broker.inspector.dead(NOTIFICATIONS)
    assert letter.message is not None
    assert letter.message.options.get("retries", 0) == 0


def test_maintenance_writes_its_report(
    running: CommandLine, application_broker: StreamsBroker, storage: Path
) -> None:
    run_maintenance.send(MaintenanceJob(task_type="queue_report"))
    settled(application_broker, "maintenance-queue")
    assert (storage / "reports" / "queues.json").exists()


def test_a_job_type_of_ones_own_is_one_file(
    start: Start, application_broker: StreamsBroker, tmp_path: Path
) -> None:
    # A copy of the package, which the worker's own folder puts before the real one.
    copy = tmp_path / "worker-0" / "actors"
    shutil.copytree(ROOT / "actors", copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "reports.py").write_text(OWN_JOB)
    start("import actors\n")
    made = tmp_path / "report"
    application_broker.declare_queue("reports")
    application_broker.enqueue(
        Message(
            queue_name="reports",
            actor_name="make_report",
            args=({"path": str(made)},),
            kwargs={},
            options={},
        )
    )
    settled(application_broker, "reports")
    assert made.read_text() == "made"


@pytest.fixture
def effects(valkey_server: EmbeddedValkey, namespace: str) -> Iterator[Effects]:
    made = Effects(valkey_server.url, namespace)
    yield made
    made.close()


def hold(broker: StreamsBroker, queue: str, count: int) -> None:
    broker.declare_queue(queue)
    for number in range(count):
        broker.enqueue(
            Message(
                queue_name=queue,
                actor_name=f"hold_{queue}",
                args=(f"{queue}-{number}",),
                kwargs={},
                options={},
            )
        )


def nothing_starts(effects: Effects) -> bool:
    try:
        effects.next("started", timeout_s=QUIET_S)
    except AssertionError:
        return True
    return False


def test_a_global_concurrency_in_the_settings_holds_over_two_worker_processes(
    start: Start, application_broker: StreamsBroker, effects: Effects
) -> None:
    start(HOLD, processes=2)
    hold(application_broker, "bounded", 8)
    # Two at most in one process: the third can only be in the other.
    assert len({effect.pid for effect in effects.take(3, "started")}) == 2
    assert nothing_starts(effects), "a fourth job runs"
    for number in range(8):
        effects.permit(f"bounded-{number}")
    settled(application_broker, "bounded")
    running, most = 0, 0
    for effect in effects.catch_up():
        running += 1 if effect.event == "started" else -1
        most = max(most, running)
    assert (len(effects.all), running, most) == (16, 0, 3)


def test_a_rate_in_the_settings_bounds_the_starts_over_two_worker_processes(
    start: Start, application_broker: StreamsBroker, effects: Effects
) -> None:
    for number in range(8):
        effects.permit(f"metered-{number}")
    start(HOLD, processes=2)
    hold(application_broker, "metered", 8)
    effects.take(3, "done")
    assert nothing_starts(effects), "a fourth job started in the period"
    application_broker.inspector.limit("metered", QueueLimit())
    effects.take(5, "done")


def test_a_wrong_setting_stops_the_worker_with_one_clear_line(launch: Launcher) -> None:
    process = launch("import actors\n", processes=1, environment={"HEADRACE_ENV": "staging"})
    assert process.wait() != 0
    expected = "SettingsError: HEADRACE_ENV: must be one of development, production, got 'staging'"
    assert expected in process.log
