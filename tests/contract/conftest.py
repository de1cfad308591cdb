"""One suite, two brokers, two servers: every test that asks for `broker` runs four times."""

from __future__ import annotations

import pytest
from dramatiq import Broker

from broker.embedded import EmbeddedValkey
from tests.conftest import NewBroker
from tests.contract.brokers import BROKER_KINDS, BrokerKind


@pytest.fixture(params=BROKER_KINDS)
def broker_kind(request: pytest.FixtureRequest) -> BrokerKind:
    """Which broker the application has imported."""
    kind: BrokerKind = request.param
    return kind


@pytest.fixture
def broker(broker_kind: BrokerKind, server: EmbeddedValkey, new_broker: NewBroker) -> Broker:
    """The broker with Dramatiq's default middleware, and the global one."""
    return new_broker(broker_kind, server.url)
