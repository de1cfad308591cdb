"""A broker with jobs in every state, and dashboards over it."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import pytest
from dramatiq import Actor
from dramatiq.middleware import Retries

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from dashboard import Access, Dashboard
from dashboard.access import Users
from dashboard.audit import AUDIT
from tests.conftest import NewBroker, StartWorker
from tests.dashboard.browser import Browser
from tests.waiting import eventually

PASSWORD = "correct horse battery staple"
SECRET = "s" * 32


def cheap_hash(password: str) -> str:
    """Such as a users' file may have, at the least cost that is taken: tests sign in often."""
    salt = b"a salt for tests"
    key = hashlib.scrypt(password.encode(), salt=salt, n=1 << 15, r=1, p=1, dklen=32)
    return f"scrypt$32768$1$1${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"


class Refused(Exception):
    pass


@pytest.fixture
def broker(valkey_server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    made = new_broker("streams", valkey_server.url, middleware=[Retries()])
    assert isinstance(made, StreamsBroker)
    return made


@pytest.fixture
def send(broker: StreamsBroker) -> Actor[..., None]:
    """An actor of the queue `mail` that refuses what it is told to refuse."""

    @dramatiq.actor(actor_name="send", queue_name="mail", max_retries=0)
    def send(to: str, refused: str = "") -> None:
        if refused:
            raise Refused(refused)

    return send


@pytest.fixture
def work(broker: StreamsBroker, start_worker: StartWorker) -> Callable[[], None]:
    """Run what waits until nothing does, but for what is scheduled."""

    def run() -> None:
        worker = start_worker(broker)
        eventually(
            lambda: broker.inspector.queue("mail"),
            lambda info: info.ready + info.in_flight == 0,
        )
        worker.stop(timeout=10_000)

    return run


@pytest.fixture
def dashboard(broker: StreamsBroker) -> Dashboard:
    """Everybody is an operator."""
    return Dashboard(broker, access=Access.open_to_this_machine(), secret=SECRET)


@pytest.fixture
def browser(dashboard: Dashboard) -> Browser:
    return Browser(dashboard)


@pytest.fixture(scope="session")
def users_text() -> str:
    kept = cheap_hash(PASSWORD)
    return f"# who may\nolga:operator:{kept}\n\nviktor:viewer:{kept}\n"


@pytest.fixture
def guarded(broker: StreamsBroker, users_text: str) -> Dashboard:
    """Users sign in: olga is an operator, viktor a viewer."""
    access = Access.by_password(Users(users_text, source="users"))
    return Dashboard(broker, access=access, secret=SECRET)


@pytest.fixture
def viewer(guarded: Dashboard) -> Browser:
    browser = Browser(guarded)
    assert browser.sign_in("viktor", PASSWORD).status_code == 302
    return browser


@pytest.fixture
def operator(guarded: Dashboard) -> Browser:
    browser = Browser(guarded)
    assert browser.sign_in("olga", PASSWORD).status_code == 302
    return browser


@pytest.fixture
def audit(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What the lines of the audit log say so far."""
    with caplog.at_level(logging.INFO, logger=AUDIT):
        yield lambda: [
            json.loads(r.getMessage())["data"] for r in caplog.records if r.name == AUDIT
        ]
