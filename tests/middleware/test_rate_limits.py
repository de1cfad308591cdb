"""Limits by key with a real worker: how many start, how many run at once, what a 429 does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import dramatiq
import pytest
from dramatiq.middleware import CurrentMessage
from dramatiq.results import Results
from dramatiq.results.backends import StubBackend

from broker import InvalidActorOption, InvalidOption, Rate, RateLimited, State, StreamsBroker
from tests.conftest import StartWorker
from tests.contract.recording import Seen
from tests.waiting import PATIENCE_S, eventually, wait_for

TIMEOUT_MS = int(PATIENCE_S * 1000)
QUEUE = "work"


def options_of_current() -> dict[str, Any]:
    current = CurrentMessage.get_current_message()
    assert current is not None
    return dict(current.options)


def most_in_a_window(starts_s: list[float], per_ms: int) -> int:
    """The most starts that any period has, its end excluded."""
    starts = sorted(starts_s)
    return max(sum(1 for s in starts if first <= s < first + per_ms / 1000) for first in starts)


# -- a rate by key


def test_no_period_has_more_starts_than_the_limit_and_none_waits_long(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    seen = Seen()

    @dramatiq.actor(queue_name=QUEUE, rate_key=lambda n: "u1", rate=Rate(5, per_ms=250))
    def limited(n: int) -> None:
        seen.add((time.time(), n))

    sent_s = time.time()
    for n in range(20):
        limited.send(n)
    start_worker(broker, threads=4)
    starts = seen.take(20)
    # Shorter than the period, by less than an interval: a job may note its start a little late.
    assert most_in_a_window([s for s, _ in starts], 225) <= 5
    assert sorted(n for _, n in starts) == list(range(20))
    assert max(s for s, _ in starts) < sent_s + 19 * 0.052 + 1.0
    broker.join(QUEUE, timeout=TIMEOUT_MS)


def test_a_parked_job_has_used_up_no_attempt_and_is_parked_once(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    seen, skipped = Seen(), Seen()

    class Skipped(dramatiq.Middleware):
        def after_skip_message(self, broker: dramatiq.Broker, message: Any) -> None:
            skipped.add(message.message_id)

    broker.add_middleware(Skipped())

    # A period that a busy machine is not late by: who comes before the one in front waits again.
    @dramatiq.actor(queue_name=QUEUE, max_retries=0, rate_key="u1", rate=Rate(2, per_ms=1_000))
    def limited(n: int) -> None:
        seen.add(options_of_current())

    sent = [limited.send(n) for n in range(3)]
    start_worker(broker, threads=1)
    assert all("retries" not in options for options in seen.take(3))
    assert [skipped.next() for _ in range(2)] == [m.message_id for m in sent[1:]]
    assert skipped.nothing_more(0.1)
    assert broker.inspector.queue(QUEUE).dead == 0


def test_jobs_are_parked_in_the_order_in_which_they_asked(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    @dramatiq.actor(queue_name=QUEUE, rate_key="u1", rate=Rate(1, per_ms=60_000))
    def limited(n: int) -> None:
        pass

    _, *waiting = [limited.send(n).message_id for n in range(20)]
    start_worker(broker, threads=1)
    scheduled = broker.commands.keys(QUEUE).scheduled
    eventually(lambda: broker.client.zcard(scheduled), lambda n: n == len(waiting), what="parking")
    by_time: Any = broker.client.zrange(scheduled, 0, -1)
    assert [each.decode() for each in by_time] == waiting


def test_parked_jobs_keep_their_order(broker: StreamsBroker, start_worker: StartWorker) -> None:
    seen = Seen()

    # A period that a busy machine is not late by: of jobs whose time has come any may be first.
    @dramatiq.actor(queue_name=QUEUE, rate_key="u1", rate=Rate(4, per_ms=1_000))
    def limited(n: int) -> None:
        seen.add(n)

    for n in range(5):
        limited.send(n)
    start_worker(broker, threads=1)
    assert seen.take(5) == list(range(5))


def test_a_limited_key_holds_up_no_other_and_no_thread(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    seen = Seen()

    @dramatiq.actor(queue_name=QUEUE, rate_key=lambda user, n: user, rate=Rate(1, per_ms=60_000))
    def limited(user: str | None, n: int) -> None:
        seen.add((user, n))

    for n in range(10):
        limited.send("u1", n)
    limited.send("u2", 0)
    limited.send(None, 0)  # without a key there is no limit
    limited.send(None, 1)
    start_worker(broker, threads=1)
    assert seen.take(4) == [("u1", 0), ("u2", 0), (None, 0), (None, 1)]
    assert (
        eventually(lambda: broker.inspector.queue(QUEUE), lambda q: q.in_flight == 0).scheduled == 9
    )


def test_a_key_that_can_not_be_made_fails_the_job(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    ran = Seen()

    @dramatiq.actor(
        queue_name=QUEUE, max_retries=0, rate_key=lambda user: user["id"], rate=Rate(1, per_ms=1)
    )
    def limited(user: Any) -> None:
        ran.add(user)

    limited.send({})
    limited.send({"id": 7})
    start_worker(broker, threads=1)
    broker.join(QUEUE, timeout=TIMEOUT_MS)
    errors = [letter.error for letter in broker.inspector.dead(QUEUE)]
    assert any("'id'" in error for error in errors)
    assert any("rate_key: must be a string of 1 to 512 characters, got 7" in e for e in errors)
    assert ran.nothing_more(0)


def test_an_actor_called_as_a_function_is_not_limited(broker: StreamsBroker) -> None:
    @dramatiq.actor(queue_name=QUEUE, rate_key="u1", rate=Rate(1, per_ms=60_000))
    def limited(n: int) -> int:
        return n

    assert [limited(n) for n in range(3)] == [0, 1, 2]


def test_a_job_that_calls_its_own_actor_is_asked_once(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    seen = Seen()

    @dramatiq.actor(queue_name=QUEUE, rate_key="u1", rate=Rate(1, per_ms=60_000))
    def limited(depth: int) -> None:
        seen.add(depth)
        if depth:
            limited(depth - 1)

    limited.send(2)
    start_worker(broker, threads=1)
    assert seen.take(3) == [2, 1, 0]


def test_an_async_actor_is_limited_as_well(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    seen = Seen()

    @dramatiq.actor(queue_name=QUEUE, rate_key="u1", rate=Rate(1, per_ms=60_000))
    async def limited(n: int) -> None:
        seen.add(n)

    limited.send(0)
    limited.send(1)
    start_worker(broker, threads=1)
    assert seen.next() == 0
    assert (
        eventually(lambda: broker.inspector.queue(QUEUE), lambda q: q.in_flight == 0).scheduled == 1
    )


def test_a_parked_job_is_scheduled_in_its_record_and_can_be_cancelled(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    seen = Seen()

    @dramatiq.actor(queue_name=QUEUE, rate_key="u1", rate=Rate(1, per_ms=60_000))
    def limited(n: int) -> None:
        seen.add(n)

    sent = [limited.send(n) for n in range(2)]
    start_worker(broker, threads=1)
    assert seen.next() == 0
    eventually(
        lambda: broker.jobs.get(sent[1].message_id),
        lambda job: job is not None and job.state == State.SCHEDULED,
        what="the parked job's record",
    )
    assert broker.jobs.cancel(sent[1].message_id)
    job = broker.jobs.get(sent[1].message_id)
    assert job is not None
    assert (job.state, job.attempts) == (State.CANCELLED, 0)


def test_a_parked_job_has_no_result_yet(broker: StreamsBroker, start_worker: StartWorker) -> None:
    broker.add_middleware(Results(backend=StubBackend()))

    @dramatiq.actor(queue_name=QUEUE, store_results=True, rate_key="u1", rate=Rate(1, per_ms=300))
    def limited(n: int) -> int:
        return n

    sent = [limited.send(n) for n in (1, 2)]
    start_worker(broker, threads=1)
    assert [m.get_result(block=True, timeout=TIMEOUT_MS) for m in sent] == [1, 2]


# -- a concurrency by key


def test_no_more_run_at_once_than_the_key_has_slots_and_each_end_calls_the_next(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    seen, lock = Seen(), threading.Lock()
    running: list[int] = []

    @dramatiq.actor(queue_name=QUEUE, concurrency_key="host", concurrency=2)
    def limited(n: int) -> None:
        with lock:
            running.append(n)
            at_once = len(running)
        time.sleep(0.01)
        with lock:
            running.remove(n)
        seen.add((at_once, n))

    began_s = time.monotonic()
    for n in range(20):
        limited.send(n)
    start_worker(broker, threads=6)
    done = seen.take(20)
    assert max(at_once for at_once, _ in done) == 2
    assert sorted(n for _, n in done) == list(range(20))
    assert time.monotonic() - began_s < 5  # nobody waited for a lease of a minute to end
    broker.join(QUEUE, timeout=TIMEOUT_MS)
    assert not broker.client.exists(broker.commands.keys(QUEUE).slots("host"))


def test_a_failed_job_gives_its_slot_back_and_is_retried(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    seen = Seen()

    @dramatiq.actor(
        queue_name=QUEUE, max_retries=1, min_backoff=10, concurrency_key="host", concurrency=1
    )
    def limited(fails: bool) -> None:
        seen.add((fails, options_of_current().get("retries", 0)))
        if fails:
            raise RuntimeError("on purpose")

    limited.send(True)
    limited.send(False)
    start_worker(broker, threads=2)
    assert sorted(seen.take(3)) == [(False, 0), (True, 0), (True, 1)]


def test_a_slot_is_renewed_while_its_job_runs(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    broker.heartbeat_timeout = 600
    seen, go_on = Seen(), threading.Event()

    @dramatiq.actor(queue_name=QUEUE, concurrency_key="host", concurrency=1)
    def limited(n: int) -> None:
        seen.add(n)
        if n == 0:
            wait_for(go_on, "the permission")

    limited.send(0)
    start_worker(broker, threads=2)
    assert seen.next() == 0
    limited.send(1)
    assert seen.nothing_more(1.5)
    go_on.set()
    assert seen.next() == 1


# -- RateLimited


def test_a_429_holds_the_key_and_uses_up_no_attempt(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    seen = Seen()
    refused = threading.Event()

    @dramatiq.actor(
        queue_name=QUEUE, max_retries=0, rate_key=lambda host, n: host, rate=Rate(100, per_ms=1_000)
    )
    def call(host: str, n: int) -> None:
        if not refused.is_set():
            refused.set()
            raise RateLimited(400)
        seen.add((time.monotonic(), host, n, options_of_current().get("retries", 0)))

    start_worker(broker, threads=1)
    call.send("slow", 0)
    wait_for(refused, "the refusal")
    began_s = time.monotonic()
    eventually(lambda: broker.inspector.queue(QUEUE).scheduled, lambda n: n == 1, what="parking")
    call.send("slow", 1)
    call.send("other", 2)
    starts = seen.take(3)
    assert [(host, n, retries) for _, host, n, retries in starts[:1]] == [("other", 2, 0)]
    assert sorted((host, n, retries) for _, host, n, retries in starts[1:]) == [
        ("slow", 0, 0),
        ("slow", 1, 0),
    ]
    assert all(at_s > began_s + 0.3 for at_s, host, *_ in starts if host == "slow")
    assert broker.inspector.queue(QUEUE).dead == 0


@pytest.mark.parametrize("key", [None, "elsewhere"])
def test_a_429_of_a_job_without_limits_parks_it_alone(
    broker: StreamsBroker, start_worker: StartWorker, key: str | None
) -> None:
    seen = Seen()

    @dramatiq.actor(queue_name=QUEUE, max_retries=0)
    def call(n: int) -> None:
        seen.add(n)
        if n == 0 and "again" not in options_of_current():
            raise RateLimited(60_000, key)

    call.send(0)
    call.send(1)
    start_worker(broker, threads=1)
    assert seen.take(2) == [0, 1]
    assert (
        eventually(lambda: broker.inspector.queue(QUEUE), lambda q: q.in_flight == 0).scheduled == 1
    )
    assert bool(broker.client.exists(broker.commands.keys(QUEUE).limit("elsewhere"))) == bool(key)


@pytest.mark.parametrize(
    "bad", [lambda: RateLimited(-1), lambda: RateLimited(True), lambda: RateLimited(1, "")]
)
def test_a_429_names_what_is_wrong_with_it(bad: Callable[[], RateLimited]) -> None:
    with pytest.raises(InvalidOption, match="must be a"):
        bad()


# -- declarations


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate_key": "u"}, "a.rate: rate and rate_key belong together, got None"),
        ({"rate": Rate(1, 1)}, "a.rate_key: rate and rate_key belong together, got None"),
        ({"rate_key": "u", "rate": (1, 1)}, "a.rate: must be a broker.Rate, got (1, 1)"),
        ({"rate_key": "", "rate": Rate(1, 1)}, "a.rate_key: must be a string of 1 to 512"),
        ({"concurrency_key": "u"}, "a.concurrency: concurrency and concurrency_key belong"),
        ({"concurrency": 1}, "a.concurrency_key: concurrency and concurrency_key belong"),
        (
            {"concurrency_key": "u", "concurrency": 0},
            "a.concurrency: must be an integer of at least 1, got 0",
        ),
        (
            {"concurrency_key": "u", "concurrency": True},
            "a.concurrency: must be an integer of at least 1, got True",
        ),
        ({"concurrency_key": 5, "concurrency": 1}, "a.concurrency_key: must be a string"),
    ],
)
def test_a_bad_option_is_refused_at_the_declaration(
    broker: StreamsBroker, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidActorOption) as caught:
        dramatiq.actor(actor_name="a", **options)(print)
    assert str(caught.value).startswith(message)
    assert "a" not in broker.actors


@pytest.mark.parametrize("arguments", [(0, 1), (1, 0), (1, 1, 0), (1, 1, 2), (1.5, 1), (True, 1)])
def test_a_rate_names_what_is_wrong_with_it(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidOption, match=r"rate\.(limit|per_ms|burst): must be"):
        Rate(*arguments)
