"""The application's stack on a broker of the test's own."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from dramatiq.middleware import Middleware

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from broker.settings import Settings
from middleware.encryption import Encryption
from middleware.stack import stack
from tests.conftest import NewBroker
from tests.middleware.sealed import QUEUE, Build


@pytest.fixture
def broker(valkey_server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    """A broker with the application's middleware, and the global one."""
    made = new_broker("streams", valkey_server.url, middleware=stack(Settings.load({})))
    assert isinstance(made, StreamsBroker)
    return made


@pytest.fixture
def build(valkey_server: EmbeddedValkey, new_broker: NewBroker) -> Build:
    """A broker with the application's middleware and, unless it is None, this encryption."""

    def make(encryption: Encryption | None, *more: Middleware, **options: Any) -> StreamsBroker:
        first = [] if encryption is None else [encryption]
        middleware = [*first, *stack(Settings.load({})), *more]
        made = new_broker("streams", valkey_server.url, middleware=middleware, **options)
        assert isinstance(made, StreamsBroker)
        made.declare_queue(QUEUE)
        return made

    return make


@pytest.fixture
def client(valkey_server: EmbeddedValkey) -> Iterator[redis.Redis]:
    """A plain client of the shared server."""
    with redis.Redis.from_url(valkey_server.url) as connected:
        yield connected


@pytest.fixture
def seen() -> queue.Queue[Any]:
    """What the jobs of a test were given."""
    return queue.Queue()
