"""The application's stack on a broker of the test's own."""

from __future__ import annotations

import pytest

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from broker.settings import Settings
from middleware.stack import stack
from tests.conftest import NewBroker


@pytest.fixture
def broker(valkey_server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    """A broker with the application's middleware, and the global one."""
    made = new_broker("streams", valkey_server.url, middleware=stack(Settings.load({})))
    assert isinstance(made, StreamsBroker)
    return made
