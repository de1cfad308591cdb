"""A Streams broker on each server, with a worker when a test starts one."""

from __future__ import annotations

import pytest
from dramatiq.middleware import AsyncIO

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from tests.conftest import NewBroker


@pytest.fixture
def broker(server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    """With Dramatiq's default middleware and its asyncio, and the global one."""
    made = new_broker("streams", server.url)
    assert isinstance(made, StreamsBroker)
    made.add_middleware(AsyncIO())
    return made
