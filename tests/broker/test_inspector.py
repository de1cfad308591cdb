"""What operators are told about servers and consumers."""

from __future__ import annotations

import redis

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from tests.conftest import NewBroker, StartWorker
from tests.waiting import eventually


def add_consumer(broker: StreamsBroker, client: redis.Redis, name: str) -> None:
    """As a worker leaves one that nobody has reaped."""
    stream = broker.commands.keys("mail").ready[0]
    client.xgroup_create(stream, "workers", "0", mkstream=True)
    client.xgroup_createconsumer(stream, "workers", name)


def test_a_worker_is_live_until_it_stops(
    server: EmbeddedValkey, new_broker: NewBroker, start_worker: StartWorker
) -> None:
    broker = new_broker("streams", server.url)
    assert isinstance(broker, StreamsBroker)
    broker.declare_queue("mail")
    assert broker.inspector.live_consumers("mail", 60_000) == 0
    worker = start_worker(broker)
    live = broker.inspector.live_consumers
    eventually(lambda: live("mail", 60_000), lambda count: count == 1, what="a live consumer")
    worker.stop()
    assert live("mail", 60_000) == 0
    assert broker.inspector.workers() == []


def test_a_consumer_is_live_while_the_server_hears_of_it(
    server: EmbeddedValkey, client: redis.Redis, new_broker: NewBroker
) -> None:
    broker = new_broker("streams", server.url)
    assert isinstance(broker, StreamsBroker)
    add_consumer(broker, client, "killed")
    live = broker.inspector.live_consumers
    assert live("mail", 60_000) == 1, "nobody has reaped it"
    eventually(lambda: live("mail", 50), lambda count: count == 0, what="no live consumer")


def test_what_was_handed_back_is_no_consumer(
    server: EmbeddedValkey, client: redis.Redis, new_broker: NewBroker
) -> None:
    broker = new_broker("streams", server.url)
    assert isinstance(broker, StreamsBroker)
    add_consumer(broker, client, "~released")
    assert broker.inspector.live_consumers("mail", 60_000) == 0


def test_the_servers_memory_is_told(server: EmbeddedValkey, new_broker: NewBroker) -> None:
    broker = new_broker("streams", server.url)
    assert isinstance(broker, StreamsBroker)
    (memory,) = broker.inspector.servers()
    assert memory.used > 100_000
    assert (memory.limit, memory.evicts) == (0, False)
