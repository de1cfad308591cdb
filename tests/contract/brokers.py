"""The two brokers an application may import, and what a test asks of both by different means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import redis
from dramatiq import Broker
from dramatiq.brokers.redis import RedisBroker

from broker import StreamsBroker

BrokerKind = Literal["stock", "streams"]
BROKER_KINDS: tuple[BrokerKind, ...] = ("stock", "streams")

#: The one line that differs between an application on the one and on the other.
IMPORT_LINE: dict[BrokerKind, str] = {
    "stock": "from dramatiq.brokers.redis import RedisBroker as TheBroker",
    "streams": "from broker import StreamsBroker as TheBroker",
}
_CLASSES: dict[BrokerKind, Callable[..., Broker]] = {
    "stock": RedisBroker,
    "streams": StreamsBroker,
}


def build(kind: BrokerKind, url: str, namespace: str, **options: object) -> Broker:
    """A broker of this kind; `options` are the constructor's further keywords."""
    return _CLASSES[kind](url=url, namespace=namespace, **options)


def client_of(broker: Broker) -> redis.Redis:
    """The broker's client: part of the contract, though not of Dramatiq's base class."""
    client: redis.Redis = broker.client  # type: ignore[attr-defined]
    return client


def dead_count(broker: Broker, queue_name: str) -> int:
    """How many dead letters the queue has."""
    if isinstance(broker, StreamsBroker):
        return broker.inspector.queue(queue_name).dead
    stock: RedisBroker = broker  # type: ignore[assignment]
    return int(client_of(stock).zcard(f"{stock.namespace}:{queue_name}.XQ"))
