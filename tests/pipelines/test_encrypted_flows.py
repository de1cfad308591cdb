"""What flows keep in Redis of encrypted steps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest
import redis

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from broker.sealing import Unauthenticated
from middleware.encryption import Encryption
from middleware.flows import Flows
from pipelines import flows
from pipelines.flow import chain
from tests.conftest import NewBroker, StartWorker
from tests.contract.recording import Seen
from tests.middleware.sealed import RING, SECRET, leaks
from tests.waiting import PATIENCE_S, eventually

TIMEOUT_MS = int(PATIENCE_S * 1000)


@pytest.fixture
def client(valkey_server: EmbeddedValkey) -> Iterator[redis.Redis]:
    """A plain client of the shared server."""
    with redis.Redis.from_url(valkey_server.url) as connected:
        yield connected


@pytest.fixture
def broker(valkey_server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    """A broker all of whose jobs are encrypted."""
    made = new_broker("streams", valkey_server.url)
    assert isinstance(made, StreamsBroker)
    made.add_middleware(Encryption(RING, default=True))
    made.add_middleware(Flows())
    return made


class Steps:
    """Actors on two queues."""

    def __init__(self) -> None:
        self.seen = seen = Seen()
        self.are_mended = threading.Event()

        @dramatiq.actor(queue_name="home")
        def whisper(word: str) -> str:
            return word

        @dramatiq.actor(queue_name="away")
        def hear(*words: Any) -> Any:
            seen.add(words)
            return words[-1]

        @dramatiq.actor(queue_name="away", max_retries=0)
        def fail(*words: Any) -> None:
            raise ValueError(words)

        @dramatiq.actor(queue_name="away", max_retries=0)
        def mended(word: str) -> str:
            if not self.are_mended.is_set():
                raise ValueError("broken")
            return word

        self.whisper, self.hear, self.fail, self.mended = whisper, hear, fail, mended


def test_results_go_from_step_to_step_sealed(
    broker: StreamsBroker, start_worker: StartWorker, client: redis.Redis
) -> None:
    steps = Steps()
    start_worker(broker)
    whispers = [steps.whisper.message(f"{SECRET}-{n}") for n in range(2)]
    flow_id = flows.start(chain("secret", whispers, steps.hear.message()))
    assert flows.wait(flow_id, TIMEOUT_MS).state == "completed"
    expected = [f"{SECRET}-0", f"{SECRET}-1"]
    assert steps.seen.next() == (expected,)
    assert flows.results(flow_id, "whisper") == expected
    assert leaks(client, broker.namespace) == []


def test_a_failed_steps_error_is_its_type_alone(
    broker: StreamsBroker, start_worker: StartWorker, client: redis.Redis
) -> None:
    steps = Steps()
    start_worker(broker)
    flow_id = flows.start(chain("secret", steps.whisper.message(SECRET), steps.fail.message()))
    record = flows.wait(flow_id, TIMEOUT_MS)
    assert record.state == "failed"
    assert leaks(client, broker.namespace) == []


@pytest.mark.parametrize("record", ["kept", "gone"])
def test_an_encrypted_step_that_is_redriven_takes_its_flow_up(
    broker: StreamsBroker, start_worker: StartWorker, client: redis.Redis, record: str
) -> None:
    steps = Steps()
    start_worker(broker)
    flow_id = flows.start(chain("secret", steps.mended.message(SECRET), steps.hear.message()))
    assert flows.wait(flow_id, TIMEOUT_MS).state == "failed"
    steps.are_mended.set()
    if record == "gone":
        client.delete(f"{broker.flows.keys('away').job_prefix}{flow_id}-0")
    assert flows.resume(flow_id) == 1
    eventually(
        lambda: flows.get(flow_id),
        lambda found: found is not None and found.state == "completed",
        what="the resumed flow",
    )
    assert steps.seen.next() == (SECRET,)
    assert leaks(client, broker.namespace) == []


def test_a_result_put_in_anothers_place_is_not_handed_on(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    steps = Steps()
    worker = start_worker(broker, queues={"home"})
    one, two = (
        flows.start(chain("secret", steps.whisper.message(word), steps.hear.message()))
        for word in ("one", "two")
    )
    broker.join("home", timeout=TIMEOUT_MS)
    client: Any = broker.client
    prefix = broker.flows.keys("home").flow_prefix
    kept = client.hgetall(f"{prefix}{one}:results")
    client.hset(f"{prefix}{two}:results", mapping=kept)
    with pytest.raises(Unauthenticated):
        flows.results(two, "whisper")
    worker.stop()
    start_worker(broker)
    assert flows.wait(one, TIMEOUT_MS).state == "completed"
    assert flows.wait(two, TIMEOUT_MS).state == "failed"
    assert steps.seen.next() == ("one",)
    (letter,) = broker.inspector.dead("away")
    assert letter.reason == "unauthenticated"
