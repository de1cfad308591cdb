"""The page docs/wire-format.md is enough to enqueue: its commands, as they stand, run a job."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from dramatiq import Message

from actors.inbox import Inbox, InboxItem
from broker import entry
from broker.embedded import EmbeddedValkey
from broker.keys import (
    QueueKeys,
    cancel_channel,
    intake_keys,
    leader_key,
    notices_key,
    queues_key,
)
from tests.conftest import NewServer
from tests.processes import ROOT, Launcher
from tests.servers import REQUIRE_REDIS
from tests.waiting import eventually

PAGE = (ROOT / "docs" / "wire-format.md").read_text("utf-8")
#: The namespace and the queue that the page's commands name.
NAMESPACE = "chatgenius"

ReadInbox = Callable[[str], InboxItem]


def _block(language: str) -> str:
    """The page's only block in this language."""
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(block)


@pytest.fixture
def server(own_server: NewServer) -> EmbeddedValkey:
    """A server of the test's own, since the page names the namespace."""
    return own_server()


@pytest.fixture
def inbox(server: EmbeddedValkey) -> Iterator[ReadInbox]:
    """Wait for the one notification in a user's inbox."""
    with redis.Redis.from_url(server.url) as client:

        def read(user: str) -> InboxItem:
            box = Inbox(client, NAMESPACE, user)
            (item,) = eventually(box.read, bool, what=f"inbox of {user}")
            return item

        yield read


def _work(launch: Launcher, server: EmbeddedValkey) -> None:
    environment = {"REDIS_URL": server.url, "QUEUE_PREFIX": NAMESPACE}
    launch("import actors\n", environment=environment).wait_until_ready()


def test_a_bare_socket_enqueues_with_the_pages_command(
    server: EmbeddedValkey, launch: Launcher, inbox: ReadInbox
) -> None:
    command = _block("redis").strip()
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(command.encode() + b"\r\n")
        reply = connection.recv(200)
    assert reply.startswith(b"$"), reply
    # The worker comes after the job: it finds what was there before it.
    _work(launch, server)
    item = inbox("u1")
    assert item.content == {"text": "Hello"}
    assert f" id {item.message_id} " in command


def test_node_enqueues_with_the_pages_program(
    server: EmbeddedValkey, launch: Launcher, inbox: ReadInbox, tmp_path: Path
) -> None:
    node = shutil.which("node")
    if node is None:
        if os.environ.get(REQUIRE_REDIS) == "1":
            pytest.fail("node is not installed, and this run requires everything")
        pytest.skip("node is not installed")
    program = tmp_path / "enqueue.mjs"
    program.write_text(_block("js"), encoding="utf-8")
    _work(launch, server)
    done = subprocess.run(
        [node, str(program)],
        env={**os.environ, "REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(server.port)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    item = inbox("u2")
    assert item.content == {"text": "Hello from Node"}
    assert item.message_id == done.stdout.strip()


def test_what_the_client_writes_is_what_the_page_documents() -> None:
    documented = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    full: Message[None] = Message("mail", "send", (1,), {"to": "ada"}, {"max_retries": 0})
    assert entry.encode(full)[::2] == documented
    bare: Message[None] = Message("mail", "send", (), {}, {})
    assert entry.encode(bare)[::2] == ["id", "actor", "at", "args"]


def test_the_page_lists_every_key() -> None:
    tables = PAGE.split("## All keys")[1].replace("<state>", "*").replace("<what>", "*")
    listed = set(re.findall(r"`(\{[\w:]+\}[^`]*)`", tables))
    own = QueueKeys("ns", "q", 0)
    one_a_queue = {
        value
        for name, value in vars(own).items()
        if str(value).startswith("{") and not name.endswith("_prefix")
    }
    of_something = {
        own.ready[0].replace("0", "<level>"), own.recent("*"), own.taken("<stream>:<group>"),
        own.job_prefix + "<id>", own.flow_prefix + "<id>",
        *(each("<key>") for each in (own.limit, own.rate_line, own.slots, own.slots_line)),
    }  # fmt: skip
    of_the_namespace = {
        *intake_keys("ns"), queues_key("ns"), notices_key("ns"), cancel_channel("ns"),
        leader_key("ns", "*"),
    }  # fmt: skip
    assert listed == one_a_queue | of_something | of_the_namespace
