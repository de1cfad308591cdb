"""The servers that jobs talk to, and the application's jobs on a broker of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dramatiq
import msgspec
import pytest
from dramatiq import Actor

import actors
from actors.app import build_broker, settings
from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from tests.actors.servers import MailServer, PushGateway


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    """A mail server without TLS."""
    with MailServer() as server:
        yield server


@pytest.fixture
def gateway() -> Iterator[PushGateway]:
    """A push gateway."""
    with PushGateway() as server:
        yield server


@pytest.fixture
def application_broker(valkey_server: EmbeddedValkey, namespace: str) -> Iterator[StreamsBroker]:
    """A broker as the application builds it, in the test's namespace, with all of its jobs."""
    broker = build_broker(
        msgspec.structs.replace(settings, redis_url=valkey_server.url, queue_prefix=namespace)
    )
    # The demo's are there too, once a test of its has been collected.
    jobs = [job for job in actors.broker.actors.values() if _of_the_application(job)]
    for actor in jobs:
        actor.broker = broker
        broker.declare_actor(actor)
    dramatiq.set_broker(broker)
    yield broker
    for actor in jobs:
        actor.broker = actors.broker
    dramatiq.set_broker(actors.broker)
    broker.close()


def _of_the_application(job: Actor[..., Any]) -> bool:
    return job.fn.__module__.partition(".")[0] == actors.__name__
