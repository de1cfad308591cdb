"""Results on the broker's own client."""

# mypy: allow-untyped-calls
# Dramatiq has no types here.

from __future__ import annotations

import dramatiq
import pytest
from dramatiq import Broker
from dramatiq.results import ResultFailure, ResultMissing, Results, ResultTimeout
from dramatiq.results.backends import RedisBackend

from tests.conftest import StartWorker
from tests.contract.brokers import client_of
from tests.waiting import PATIENCE_S

TIMEOUT_MS = int(PATIENCE_S * 1000)


@pytest.fixture
def backend(broker: Broker, namespace: str) -> RedisBackend:
    made = RedisBackend(client=client_of(broker), namespace=f"{namespace}:results")
    broker.add_middleware(Results(backend=made))
    return made


@pytest.mark.usefixtures("backend")
def test_a_result_is_read_by_the_sent_message(broker: Broker, start_worker: StartWorker) -> None:
    @dramatiq.actor(store_results=True)
    def add(x: int, y: int) -> int:
        return x + y

    start_worker(broker)
    assert add.send(1, 2).get_result(block=True, timeout=TIMEOUT_MS) == 3


@pytest.mark.usefixtures("backend")
def test_a_delayed_messages_result_is_read_by_the_returned_message(
    broker: Broker, start_worker: StartWorker
) -> None:
    @dramatiq.actor(store_results=True)
    def add(x: int, y: int) -> int:
        return x + y

    start_worker(broker)
    message = add.send_with_options(args=(1, 2), delay=50)
    assert message.get_result(block=True, timeout=TIMEOUT_MS) == 3


def test_a_result_is_read_through_the_backend_by_hand(
    broker: Broker, start_worker: StartWorker, backend: RedisBackend
) -> None:
    @dramatiq.actor(store_results=True)
    def nothing() -> None:
        return None

    start_worker(broker)
    message = nothing.send()
    assert backend.get_result(message, block=True, timeout=TIMEOUT_MS) is None
    assert broker.get_results_backend() is backend


@pytest.mark.usefixtures("backend")
def test_a_failure_is_the_result_of_a_message_that_will_not_be_retried(
    broker: Broker, start_worker: StartWorker
) -> None:
    @dramatiq.actor(store_results=True, max_retries=0)
    def fail() -> None:
        raise LookupError("no such thing")

    start_worker(broker)
    with pytest.raises(ResultFailure, match="LookupError: no such thing") as failure:
        fail.send().get_result(block=True, timeout=TIMEOUT_MS)
    assert failure.value.orig_exc_type == "LookupError"
    assert failure.value.orig_exc_msg == "no such thing"


@pytest.mark.usefixtures("backend")
def test_the_result_of_a_retried_message_is_that_of_its_last_attempt(
    broker: Broker, start_worker: StartWorker
) -> None:
    attempts: list[int] = []

    @dramatiq.actor(store_results=True, max_retries=2, min_backoff=20, max_backoff=20)
    def third_time() -> int:
        attempts.append(1)
        if len(attempts) < 3:
            raise RuntimeError("not yet")
        return len(attempts)

    start_worker(broker)
    assert third_time.send().get_result(block=True, timeout=TIMEOUT_MS) == 3


@pytest.mark.usefixtures("backend")
def test_a_missing_result_is_said_to_be_missing() -> None:
    @dramatiq.actor(store_results=True)
    def add(x: int, y: int) -> int:
        return x + y

    message = add.send(1, 2)
    with pytest.raises(ResultMissing):
        message.get_result()
    with pytest.raises(ResultTimeout):
        message.get_result(block=True, timeout=120)
