"""A producer, a history and worker processes on a server that the test may hurt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from tests.applications import Effects, application
from tests.conftest import NewBroker, NewServer
from tests.faults.history import Finalisations, History

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


@pytest.fixture
def hurt(own_server: NewServer) -> EmbeddedValkey:
    """A server of this test's own."""
    return own_server()


@pytest.fixture
def effects(hurt: EmbeddedValkey, namespace: str) -> Iterator[Effects]:
    made = Effects(hurt.url, namespace)
    yield made
    made.close()


@pytest.fixture
def producer(hurt: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    """The application's side: it enqueues and inspects, and has no actors."""
    made = new_broker("streams", hurt.url)
    assert isinstance(made, StreamsBroker)
    return made


@pytest.fixture
def history(producer: StreamsBroker, effects: Effects, hurt: EmbeddedValkey) -> Iterator[History]:
    finalisations = Finalisations(hurt.url)
    yield History(producer, effects, finalisations)
    finalisations.stop()


@pytest.fixture
def source(hurt: EmbeddedValkey, namespace: str) -> Source:
    """The source of a worker's module: `source(body, heartbeat_timeout=…)`."""

    def make(body: str, **options: object) -> str:
        return application(
            "streams", hurt.url, namespace, body, **{"heartbeat_timeout": LEASE_MS, **options}
        )

    return make
