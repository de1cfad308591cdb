"""The flows that the application ships, run by its own worker processes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from actors.accounts import suspended_key
from actors.announcements import Announcement
from actors.inbox import Inbox
from actors.preferences import Preference, Preferences
from actors.renditions import Source
from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from pipelines import flows
from pipelines.account_cleanup import account_cleanup
from pipelines.image_pipeline import image_pipeline
from pipelines.notification_fan_out import notification_fan_out
from tests.actors.conftest import application_broker, gateway, mail_server
from tests.actors.servers import MailServer, PushGateway
from tests.processes import CommandLine, Launcher
from tests.waiting import PATIENCE_S, eventually

__all__ = ["application_broker", "gateway", "mail_server"]

TIMEOUT_MS = int(PATIENCE_S * 1000)
SETTINGS = """
[defaults]
backoff = { type = "fixed", delay = 50 }
[queues.notifications]
attempts = 2
backoff = { type = "fixed", delay = 50 }
[queues.file_processing]
attempts = 2
backoff = { type = "fixed", delay = 50 }
[queues.maintenance]
attempts = 2
backoff = { type = "fixed", delay = 50 }
"""


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    folder = tmp_path / "storage"
    folder.mkdir()
    return folder


@pytest.fixture
def workers(
    launch: Launcher,
    valkey_server: EmbeddedValkey,
    application_broker: StreamsBroker,
    mail_server: MailServer,
    gateway: PushGateway,
    storage: Path,
    tmp_path: Path,
) -> CommandLine:
    """`dramatiq actors`, with short pauses between attempts."""
    settings = tmp_path / "settings.toml"
    settings.write_text(SETTINGS)
    process = launch(
        "import actors\n",
        threads=4,
        environment={
            "REDIS_URL": valkey_server.url,
            "QUEUE_PREFIX": application_broker.namespace,
            "HEADRACE_SETTINGS": str(settings),
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(mail_server.port),
            "PUSH_GATEWAY_URL": gateway.url,
            "STORAGE_URL": str(storage),
            "DIGEST_PAUSE_MS": "500",
        },
    )
    process.wait_until_ready()
    return process


def photo(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_an_image_becomes_its_renditions_and_the_user_is_told(
    workers: CommandLine, application_broker: StreamsBroker, storage: Path
) -> None:
    (storage / "photo.jpg").write_bytes(photo(800, 400))
    source = Source(file_id="photo.jpg", folder="renditions/photo")
    flow_id = flows.start(image_pipeline(source, "u1"))
    record = flows.wait(flow_id, TIMEOUT_MS)
    assert record.state == "completed", record.error
    folder = storage / "renditions" / "photo"
    assert files(folder) == ["1280.jpg", "320.jpg", "640.jpg", "manifest.json"]
    sizes = {}
    for name in ("320", "640", "1280"):
        with Image.open(folder / f"{name}.jpg") as image:
            sizes[name] = image.size
    assert sizes == {"320": (320, 160), "640": (640, 320), "1280": (800, 400)}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [each["path"] for each in manifest["renditions"]] == [
        f"renditions/photo/{width}.jpg" for width in (320, 640, 1280)
    ]
    inbox = Inbox(application_broker.client, application_broker.namespace, "u1")
    assert [item.content["event"] for item in inbox.read()] == ["image-ready"]


def test_of_an_image_that_fails_nothing_is_left_and_the_user_is_told(
    workers: CommandLine, application_broker: StreamsBroker, storage: Path
) -> None:
    (storage / "photo.jpg").write_bytes(photo(800, 400))
    # Where the manifest should go there is a folder: everything before it succeeds.
    (storage / "renditions" / "manifest.json").mkdir(parents=True)
    (storage / "renditions" / "manifest.json" / "in the way").touch()
    source = Source(file_id="photo.jpg", folder="renditions")
    flow_id = flows.start(image_pipeline(source, "u1", widths=(100, 200)))
    record = flows.wait(flow_id, TIMEOUT_MS)
    assert (record.state, record.failed_step) == ("failed", "manifest")
    assert files(storage) == ["photo.jpg", "renditions/manifest.json/in the way"]
    inbox = Inbox(application_broker.client, application_broker.namespace, "u1")
    (item,) = eventually(inbox.read, bool, what="the note")
    assert item.content["event"] == "image-failed"


def test_a_fan_out_tells_each_user_once_by_the_channel_that_each_prefers(
    workers: CommandLine,
    application_broker: StreamsBroker,
    mail_server: MailServer,
    gateway: PushGateway,
) -> None:
    broker = application_broker
    preferences = Preferences(broker.client, broker.namespace)
    preferences.put(
        {
            "mail": Preference(channel="email", email="mail@users.example"),
            "push": Preference(channel="push"),
            "digest": Preference(channel="digest", email="digest@users.example"),
            "none": Preference(channel="none"),
        }
    )
    users = ["mail", "push", "digest", "none", *(f"u{number}" for number in range(60)), "u0"]
    ids = [
        flows.start(notification_fan_out(Announcement(title=title, text=f"Of {title}."), users))
        for title in ("One", "Two")
    ]
    for flow_id in ids:
        assert flows.wait(flow_id, TIMEOUT_MS).state == "completed"
        (report,) = flows.results(flow_id, "report")
        assert report == {
            "told": {"email": 1, "push": 1, "digest": 1, "none": 1, "in-app": 60},
            "failed": 0,
        }
    for number in range(60):
        items = Inbox(broker.client, broker.namespace, f"u{number}").read()
        assert sorted(item.content["title"] for item in items) == ["One", "Two"]
    mails = [mail_server.next_mail() for _ in range(3)]
    by_address: dict[str, list[str]] = {}
    for mail in mails:
        by_address.setdefault(str(mail["To"]), []).append(str(mail["Subject"]))
    assert sorted(by_address["mail@users.example"]) == ["One", "Two"]
    assert by_address["digest@users.example"] == ["2 notifications"], "both in one mail"


def test_an_account_is_cleaned_up_and_the_user_is_told(
    workers: CommandLine,
    application_broker: StreamsBroker,
    mail_server: MailServer,
    storage: Path,
) -> None:
    broker = application_broker
    own = storage / "users" / "u%2F1" / "a"
    own.mkdir(parents=True)
    (own / "one.txt").write_text("1")
    (own.parent / "two.txt").write_text("2")
    (storage / "users" / "u2").mkdir()
    (storage / "users" / "u2" / "other.txt").write_text("kept")
    Inbox(broker.client, broker.namespace, "u/1").append("m", {}, max_length=10)
    flow = account_cleanup("u/1", email="u1@users.example", operator_id="admin")
    record = flows.wait(flows.start(flow), TIMEOUT_MS)
    assert record.state == "completed", record.error
    assert files(storage) == ["users/u2/other.txt"]
    assert Inbox(broker.client, broker.namespace, "u/1").read() == []
    assert broker.client.smembers(suspended_key(broker.namespace)) == {b"u/1"}
    assert mail_server.next_mail()["Subject"] == "Your account is closed"


def test_an_account_whose_clean_up_fails_is_as_it_was(
    workers: CommandLine, application_broker: StreamsBroker, storage: Path
) -> None:
    broker = application_broker
    own = storage / "users" / "u1"
    own.mkdir(parents=True)
    (own / "one.txt").write_text("1")
    # The step trips over preferences that are none.
    broker.client.set(f"{{{broker.namespace}}}:preferences", "no hash")
    flow = account_cleanup("u1", email="u1@users.example", operator_id="admin")
    record = flows.wait(flows.start(flow), TIMEOUT_MS)
    assert (record.state, record.failed_step) == ("failed", "erase messages")
    assert files(storage) == ["users/u1/one.txt"]
    assert broker.client.exists(suspended_key(broker.namespace)) == 0
    (note,) = eventually(
        Inbox(broker.client, broker.namespace, "admin").read, bool, what="the note"
    )
    assert note.content["event"] == "account-clean-up-failed"


def test_an_account_is_as_it_was_when_a_step_fails_half_way(
    workers: CommandLine, application_broker: StreamsBroker, storage: Path
) -> None:
    broker = application_broker
    own = storage / "users" / "u1"
    own.mkdir(parents=True)
    before = ["one.txt", "two\n.txt"]  # of which the second can't be copied
    for name in before:
        (own / name).write_text(name)
    flow = account_cleanup("u1", email="u1@users.example", operator_id="admin")
    record = flows.wait(flows.start(flow), TIMEOUT_MS)
    assert (record.state, record.failed_step) == ("failed", "set files aside")
    assert files(storage) == [f"users/u1/{name}" for name in before]
    assert broker.client.exists(suspended_key(broker.namespace)) == 0
