"""The results of encrypted jobs, in Dramatiq's own backend."""

from __future__ import annotations

import queue
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.middleware import CurrentMessage
from dramatiq.results import ResultFailure, Results
from dramatiq.results.backends import RedisBackend

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from broker.sealing import Unauthenticated, Undecryptable
from middleware.encryption import Encryption
from middleware.keyring import KeyRing
from middleware.sealed_results import SealedResults
from tests.conftest import StartWorker
from tests.middleware.sealed import (
    OTHER_KEY,
    QUEUE,
    RING,
    SECRET,
    TIMEOUT_MS,
    Build,
    encrypting,
    leaks,
)


@pytest.fixture
def with_results(build: Build, valkey_server: EmbeddedValkey, namespace: str) -> Build:
    def make(encryption: Encryption | None, **options: Any) -> StreamsBroker:
        broker = build(encryption, **options)
        backend = RedisBackend(
            url=valkey_server.url, namespace=f"{namespace}:r", use_namespace_prefix_keys=True
        )
        broker.add_middleware(Results(backend=backend))
        return broker

    return make


def test_a_result_is_sealed_in_the_backend(
    with_results: Build, seen: queue.Queue[Any], start_worker: StartWorker, client: redis.Redis
) -> None:
    broker = with_results(Encryption(RING))
    note = encrypting(broker, seen, store_results=True)
    start_worker(broker)
    message = note.send({"secret": SECRET, "big": 2**70})
    expected = {"secret": SECRET, "big": 2**70}
    assert message.get_result(block=True, timeout=TIMEOUT_MS) == expected
    assert message.get_result() == expected
    assert leaks(client, broker.namespace) == []
    assert list(client.scan_iter(f"{broker.namespace}:r:*"))


def test_an_exception_is_sealed_in_the_backend(
    with_results: Build, start_worker: StartWorker, client: redis.Redis
) -> None:
    broker = with_results(Encryption(RING))

    @dramatiq.actor(
        broker=broker, queue_name=QUEUE, encrypted=True, store_results=True, max_retries=0
    )
    def fail(secret: str) -> None:
        raise ValueError(secret)

    start_worker(broker)
    message = fail.send(SECRET)
    with pytest.raises(ResultFailure, match=SECRET) as failure:
        message.get_result(block=True, timeout=TIMEOUT_MS)
    assert failure.value.orig_exc_type == "ValueError"
    assert leaks(client, broker.namespace) == []


def test_the_results_of_other_jobs_stay_as_they_are(
    with_results: Build, seen: queue.Queue[Any], start_worker: StartWorker
) -> None:
    broker = with_results(Encryption(RING))
    note = encrypting(broker, seen, encrypted=False, store_results=True)
    start_worker(broker)
    message = note.send("plain")
    assert message.get_result(block=True, timeout=TIMEOUT_MS) == "plain"
    key = broker.get_results_backend().build_message_key(message)
    assert broker.client.lindex(key, 0) == b'"plain"'


def test_a_result_moved_to_another_job_is_refused(
    with_results: Build, seen: queue.Queue[Any], start_worker: StartWorker
) -> None:
    broker = with_results(Encryption(RING, require=True))
    note = encrypting(broker, seen, store_results=True)
    start_worker(broker)
    one, two = note.send("one"), note.send("two")
    for message in (one, two):
        message.get_result(block=True, timeout=TIMEOUT_MS)
    backend = broker.get_results_backend()
    from_key, to_key = map(backend.build_message_key, (one, two))
    broker.client.lset(to_key, 0, broker.client.lindex(from_key, 0))  # type: ignore[arg-type]
    with pytest.raises(Unauthenticated):
        two.get_result()
    broker.client.lset(to_key, 0, '"forged"')
    with pytest.raises(Unauthenticated, match="not sealed"):
        two.get_result()


def test_a_result_needs_its_key(
    with_results: Build, seen: queue.Queue[Any], start_worker: StartWorker
) -> None:
    broker = with_results(Encryption(RING))
    note = encrypting(broker, seen, store_results=True)
    start_worker(broker)
    message = note.send(SECRET)
    message.get_result(block=True, timeout=TIMEOUT_MS)
    other = with_results(Encryption(KeyRing([OTHER_KEY], OTHER_KEY.id)))
    with pytest.raises(Undecryptable):
        message.get_result(backend=other.get_results_backend())


def test_results_are_sealed_in_whichever_order_the_middleware_comes(
    build: Build, valkey_server: EmbeddedValkey
) -> None:
    results = Results(backend=RedisBackend(url=valkey_server.url))
    broker = build(None, results)
    broker.add_middleware(Encryption(RING))
    broker.add_middleware(CurrentMessage())
    assert isinstance(results.backend, SealedResults)
    assert broker.get_results_backend() is results.backend
