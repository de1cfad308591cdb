"""A producer, a history and worker processes on a server that the test may hurt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from tests.applications import Effects, application
from tests.conftest import NewBroker, NewServer
from tests.faults.history import Finalisations, FinalisationsInFile, Finalised, History
from tests.faults.proxy import Proxy

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder breaks something on purpose."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.faults)


#: The lease of the workers under test, in ms: how long a vanished worker holds its jobs.
LEASE_MS = 1500
#: The longest that a sweep may come after a lease has run out, in ms.
SWEEP_MS = 1000

Source = Callable[..., str]

#: For rows that the kind of server does not change.
valkey_only = pytest.mark.parametrize("server_kind", ["valkey"])


@pytest.fixture
def durable(own_server: NewServer) -> EmbeddedValkey:
    """A server of this test's own that comes back with everything it acknowledged."""
    return own_server(appendonly=True)


@pytest.fixture
def forgetful() -> None:
    """The test restarts a server that keeps nothing: nobody can count what it finished."""


@pytest.fixture
def hurt(request: pytest.FixtureRequest, own_server: NewServer) -> EmbeddedValkey:
    """A server of this test's own; the durable one where the test asks for that."""
    if "durable" in request.fixturenames:
        durable: EmbeddedValkey = request.getfixturevalue("durable")
        return durable
    return own_server()


@pytest.fixture
def effects(valkey_server: EmbeddedValkey, namespace: str) -> Iterator[Effects]:
    """What the jobs did, noted on a server that nobody hurts."""
    made = Effects(valkey_server.url, namespace)
    yield made
    made.close()


@pytest.fixture
def proxy(hurt: EmbeddedValkey) -> Iterator[Proxy]:
    """The way to the server that a test may slow down, block and cut."""
    made = Proxy(hurt.port)
    yield made
    made.close()


@pytest.fixture
def producer(hurt: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    """The application's side: it enqueues and inspects, and has no actors."""
    made = new_broker("streams", hurt.url)
    assert isinstance(made, StreamsBroker)
    return made


@pytest.fixture
def history(
    request: pytest.FixtureRequest, producer: StreamsBroker, effects: Effects, hurt: EmbeddedValkey
) -> Iterator[History]:
    """The checker. What it finds is reported with the test, for the table of faults."""
    finalisations: Finalised | None = None
    if "durable" in request.fixturenames:
        finalisations = FinalisationsInFile(hurt.data_dir)
    elif "forgetful" not in request.fixturenames:
        finalisations = Finalisations(hurt.url)
    made = History(producer, effects, finalisations)
    yield made
    if finalisations is not None:
        finalisations.stop()
    for found in made.findings:
        request.node.user_properties.append(("findings", asdict(found)))
    if made.measured:
        request.node.user_properties.append(("measured", made.measured))


@pytest.fixture
def source(hurt: EmbeddedValkey, valkey_server: EmbeddedValkey, namespace: str) -> Source:
    """The source of a worker's module: `source(body, url=…, heartbeat_timeout=…)`."""

    def make(body: str, *, url: str | None = None, **options: object) -> str:
        return application(
            "streams",
            hurt.url if url is None else url,
            namespace,
            body,
            notebook=valkey_server.url,
            **{"heartbeat_timeout": LEASE_MS, **options},
        )

    return make
