"""Servers, namespaces and clients for every test.

Servers are started once a session and shared; a test never sees another test's
keys, because it has a namespace of its own. So nothing here flushes a database.
With `-n` each of the processes that run tests is such a session, and `--dist loadfile`
keeps a file's tests in one of them, and with them what they share.
"""

from __future__ import annotations

import os
import signal

# Dramatiq reads this once, at import: how long a consumer that met an error waits
# before it starts again, in ms. Its default of 3 s only makes fault tests slower.
os.environ.setdefault("dramatiq_restart_delay", "200")

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import dramatiq
import pytest
import redis
from dramatiq import Broker, Worker

from broker.embedded import EmbeddedValkey
from tests.contract.brokers import BrokerKind, build
from tests.processes import CommandLine, Launcher
from tests.servers import SERVER_KINDS, ServerKind, new_server

# A script's background job is started with SIGINT ignored, and so would be every program
# that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

NewServer = Callable[..., EmbeddedValkey]
NewBroker = Callable[..., Broker]
StartWorker = Callable[..., Worker]

#: How long a worker idles before it looks at its flags, in ms; also how long it takes to stop.
WORKER_TIMEOUT_MS = 100
#: How long the end of a test waits for a worker's threads, in ms.
STOP_TIMEOUT_MS = 10_000


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Reports go from process to process as UTF-8, and some tests log texts that are none."""
    return _in_utf_8((yield))


def _in_utf_8(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_in_utf_8(key): _in_utf_8(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_in_utf_8, value))
    return value


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """The embedded Valkey, shared by the session."""
    with new_server("valkey", tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """The distribution's Redis 7.0, shared by the session."""
    with new_server("redis", tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=SERVER_KINDS)
def server_kind(request: pytest.FixtureRequest) -> ServerKind:
    """Which server the test runs on: every test that asks runs on both."""
    kind: ServerKind = request.param
    return kind


@pytest.fixture
def server(request: pytest.FixtureRequest, server_kind: ServerKind) -> EmbeddedValkey:
    """A shared server of each kind in turn; leave other namespaces alone."""
    shared: EmbeddedValkey = request.getfixturevalue(f"{server_kind}_server")
    return shared


@pytest.fixture
def own_server(server_kind: ServerKind, tmp_path: Path) -> Iterator[NewServer]:
    """Start servers that only this test uses, so it may hurt them: `own_server(config={…})`."""
    started: list[EmbeddedValkey] = []

    def start(**options: object) -> EmbeddedValkey:
        made = new_server(server_kind, tmp_path / f"server-{len(started)}", **options)  # type: ignore[arg-type]
        made.start()
        started.append(made)
        return made

    yield start
    for made in started:
        made.stop()


@pytest.fixture
def namespace() -> str:
    """A key prefix that no other test has."""
    return f"test-{uuid4().hex}"


@pytest.fixture
def client(server: EmbeddedValkey) -> Iterator[redis.Redis]:
    """A plain client of the shared server, to look at what the code under test left there."""
    with redis.Redis.from_url(server.url) as connected:
        yield connected


@pytest.fixture
def new_broker(namespace: str) -> Iterator[NewBroker]:
    """Build brokers under the test's namespace: `new_broker("streams", url, max_deliveries=3)`.

    The one built last is Dramatiq's global broker, as in an application.
    """
    built: list[Broker] = []
    before = dramatiq.broker.global_broker

    def make(kind: BrokerKind, url: str, **options: object) -> Broker:
        made = build(kind, url, namespace, **options)
        built.append(made)
        dramatiq.set_broker(made)
        return made

    yield make
    for made in built:
        made.close()
    dramatiq.broker.global_broker = before


@pytest.fixture
def start_worker(new_broker: NewBroker) -> Iterator[StartWorker]:
    """Start Dramatiq's own Worker: `start_worker(broker, threads=1, queues={"mail"})`."""
    workers: list[Worker] = []
    booted: set[int] = set()

    def start(broker: Broker, *, threads: int = 2, queues: set[str] | None = None) -> Worker:
        if id(broker) not in booted:
            booted.add(id(broker))
            broker.emit_after("process_boot")
        worker = Worker(
            broker, queues=queues, worker_threads=threads, worker_timeout=WORKER_TIMEOUT_MS
        )
        worker.start()
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        worker.stop(timeout=STOP_TIMEOUT_MS)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launcher]:
    """Start the real `dramatiq` command line on a module; everything is gone after the test."""
    running: list[CommandLine] = []

    def start(source: str, *arguments: str, **options: object) -> CommandLine:
        folder = tmp_path / f"worker-{len(running)}"
        process = CommandLine(folder, source, arguments, **options)  # type: ignore[arg-type]
        running.append(process)
        return process

    yield start
    for process in running:
        process.close()
