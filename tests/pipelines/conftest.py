"""A broker that runs flows, and one of Dramatiq's own workers to run them."""

from __future__ import annotations

import pytest

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from middleware.flows import Flows
from tests.conftest import NewBroker


@pytest.fixture
def broker(server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    """Dramatiq's default middleware and what flows need; the global broker."""
    made = new_broker("streams", server.url)
    assert isinstance(made, StreamsBroker)
    made.add_middleware(Flows())
    return made
