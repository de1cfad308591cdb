"""Dramatiq's rate limiters on the broker's own client."""

# mypy: allow-untyped-calls
# Dramatiq has no types here.

from __future__ import annotations

import threading

import dramatiq
import pytest
from dramatiq import Broker
from dramatiq.rate_limits import Barrier, ConcurrentRateLimiter, WindowRateLimiter
from dramatiq.rate_limits.backends import RedisBackend

from tests.conftest import StartWorker
from tests.contract.brokers import client_of
from tests.contract.recording import Seen
from tests.waiting import wait_for


@pytest.fixture
def backend(broker: Broker) -> RedisBackend:
    return RedisBackend(client=client_of(broker))


def test_a_concurrent_limiter_sends_the_second_job_round_again(
    broker: Broker, start_worker: StartWorker, backend: RedisBackend, namespace: str
) -> None:
    mutex = ConcurrentRateLimiter(backend, f"{namespace}:mutex", limit=1, ttl=60_000)
    seen = Seen()
    refused = threading.Event()

    @dramatiq.actor(max_retries=1000, min_backoff=20, max_backoff=20)
    def exclusive(label: str) -> None:
        try:
            with mutex.acquire():
                if not refused.is_set():
                    wait_for(refused, "the other job's refusal")
                seen.add(label)
        except dramatiq.RateLimitExceeded:
            refused.set()
            raise

    start_worker(broker, threads=2)
    exclusive.send("a")
    exclusive.send("b")
    assert sorted(seen.take(2)) == ["a", "b"]
    broker.join(exclusive.queue_name, timeout=20_000)
    assert refused.is_set()


def test_a_window_limiter_counts_over_all_jobs(
    broker: Broker, start_worker: StartWorker, backend: RedisBackend, namespace: str
) -> None:
    window = WindowRateLimiter(backend, f"{namespace}:window", limit=2, window=60)
    seen = Seen()

    @dramatiq.actor
    def limited() -> None:
        with window.acquire(raise_on_failure=False) as acquired:
            seen.add(acquired)

    start_worker(broker, threads=1)
    for _ in range(3):
        limited.send()
    assert seen.take(3) == [True, True, False]


def test_a_barrier_lets_the_last_party_through(
    broker: Broker, start_worker: StartWorker, backend: RedisBackend, namespace: str
) -> None:
    seen = Seen()

    @dramatiq.actor
    def arrive() -> None:
        seen.add(Barrier(backend, f"{namespace}:barrier").wait(block=False))

    assert Barrier(backend, f"{namespace}:barrier").create(parties=3)
    start_worker(broker, threads=1)
    for _ in range(3):
        arrive.send()
    assert seen.take(3) == [False, False, True]
