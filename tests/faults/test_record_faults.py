"""Records: what a reader is told when the server that it asks lags behind."""

from __future__ import annotations

from typing import Any

import dramatiq
import redis

from broker import State, StreamsBroker
from broker.commands import Commands
from broker.embedded import EmbeddedValkey
from broker.jobs import Jobs
from tests.conftest import NewBroker, NewServer, StartWorker
from tests.waiting import PATIENCE_S, eventually

PATIENCE_MS = int(PATIENCE_S * 1000)


class SplitReads(redis.Redis):
    """Asks the replica or the primary, as one that spreads its reads over both."""

    replica: Any
    asks_replica = False

    def execute_command(self, *args: Any, **options: Any) -> Any:
        if self.asks_replica:
            return self.replica.execute_command(*args, **options)
        return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis-py's


def test_43_a_lagging_replica_does_not_take_a_final_state_back(
    own_server: NewServer, new_broker: NewBroker, start_worker: StartWorker
) -> None:
    primary, replica = own_server(), own_server()
    broker = new_broker("streams", primary.url)
    assert isinstance(broker, StreamsBroker)

    @dramatiq.actor
    def act() -> None: ...

    message = act.send()
    reader: Any = SplitReads.from_url(primary.url)
    reader.replica = redis.Redis.from_url(replica.url)
    jobs = Jobs(Commands(reader, broker.namespace, broker.max_priority), broker.inspector.queues)
    follow(reader.replica, primary)
    reader.asks_replica = True
    eventually(lambda: jobs.get(message), lambda record: record is not None)
    reader.replica.replicaof("NO", "ONE")  # from here on it hears of nothing: it lags
    start_worker(broker)
    done = broker.jobs.wait(message, timeout=PATIENCE_MS)

    before = jobs.get(message)
    reader.asks_replica = False
    assert jobs.get(message) == done
    reader.asks_replica = True
    after = jobs.get(message)

    assert before is not None
    assert before.state is State.QUEUED  # it has not seen the end yet, and says what it knows
    assert after == done


def follow(replica: redis.Redis, primary: EmbeddedValkey) -> None:
    address = redis.Redis.from_url(primary.url).connection_pool.connection_kwargs
    replica.replicaof(address["host"], address["port"])
