"""How many jobs a worker takes ahead, and what becomes of those that it took in vain."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import dramatiq
import pytest

from broker import QueueLimit, StreamsBroker, ahead
from broker.ahead import Ahead
from broker.embedded import EmbeddedValkey
from tests.conftest import NewBroker, StartWorker
from tests.contract.recording import Seen
from tests.waiting import PATIENCE_S, eventually, wait_for

JOBS, SLOW = 600, 400
#: Two a thread; the workers here have one.
PREFETCH = 2


class Clock:
    """Stands in for the module `time`; moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(ahead, "time", made)
    return made


def after(clock: Clock, reach: Ahead, *, ended: int, ms: float) -> int:
    clock.now_s += ms / 1000
    reach.look(ended)
    return reach.limit


def test_as_many_are_taken_as_end_in_ten_milliseconds(clock: Clock) -> None:
    reach = Ahead(16, fixed=False)
    assert reach.limit == 16
    assert after(clock, reach, ended=8, ms=2) == 40
    assert after(clock, reach, ended=28, ms=2) == 100
    assert after(clock, reach, ended=128, ms=5) == 128, "never more than so many"
    assert after(clock, reach, ended=129, ms=50) == 16, "never fewer than the prefetch"


def test_a_fixed_prefetch_stays_whatever_ends(clock: Clock) -> None:
    reach = Ahead(16, fixed=True)
    assert after(clock, reach, ended=1000, ms=1) == 16
    assert not reach.reaches_out


class Jobs:
    """Jobs that end at once, but for one that waits until it may go on."""

    def __init__(self, streams: StreamsBroker) -> None:
        self.streams = streams
        self.runs = Seen()
        self.blocked, self.go_on = threading.Event(), threading.Event()
        #: How many were held when a job ran.
        self.held: list[int] = []

        @dramatiq.actor(queue_name="work", broker=streams)
        def job(number: int) -> None:
            self.held.append(self.held_now())
            if number == SLOW and not self.blocked.is_set():
                self.blocked.set()
                wait_for(self.go_on, "permission")
            self.runs.add(number)

        self.messages = [job.message(number) for number in range(JOBS)]
        streams.enqueue_many(self.messages)

    def held_now(self) -> int:
        return self.streams.worker.in_flight("work").held()


@pytest.fixture
def streams(server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    made = new_broker("streams", server.url)
    assert isinstance(made, StreamsBroker)
    return made


def test_what_a_slow_job_keeps_waiting_goes_back_for_others_to_run(
    streams: StreamsBroker, start_worker: StartWorker
) -> None:
    jobs = Jobs(streams)
    start_worker(streams, threads=1)
    wait_for(jobs.blocked, "the slow job")
    assert jobs.held[-1] > PREFETCH, "short jobs are taken ahead"
    eventually(jobs.held_now, lambda held: held <= PREFETCH, what="the rest was handed back")
    eventually(
        lambda: streams.inspector.queue("work"),
        lambda info: info.in_flight <= PREFETCH and info.ready >= JOBS - SLOW - PREFETCH,
        what="the server has the rest",
    )
    jobs.go_on.set()
    assert sorted(jobs.runs.take(JOBS)) == list(range(JOBS))
    streams.join("work", timeout=int(PATIENCE_S * 1000))
    assert jobs.runs.nothing_more(0)


def test_a_slow_job_among_short_ones_is_told_of_while_it_runs(
    streams: StreamsBroker, start_worker: StartWorker
) -> None:
    jobs = Jobs(streams)
    start_worker(streams, threads=1)
    wait_for(jobs.blocked, "the slow job")
    slow = jobs.messages[SLOW]
    record = eventually(
        lambda: streams.jobs.get(slow),
        lambda found: found is not None and found.started_at is not None,
        what="its start",
    )
    assert record is not None
    assert record.finished_at is None
    jobs.go_on.set()
    jobs.runs.take(JOBS)
    streams.join("work", timeout=int(PATIENCE_S * 1000))


def test_each_beginning_and_each_end_of_short_jobs_is_told_once_and_in_order(
    streams: StreamsBroker, start_worker: StartWorker
) -> None:
    jobs = Jobs(streams)
    start_worker(streams, threads=1)
    wait_for(jobs.blocked, "the slow job")
    jobs.go_on.set()
    jobs.runs.take(JOBS)
    streams.join("work", timeout=int(PATIENCE_S * 1000))
    told: dict[str, list[str]] = {message.message_id: [] for message in jobs.messages}
    for event in reversed(streams.events.latest("work", 10 * JOBS)):
        told[event.message_id].append(event.name)
    assert Counter(map(tuple, told.values())) == {("queued", "started", "completed"): JOBS}


@pytest.mark.parametrize("bound", ["a prefetch that somebody has set", "a concurrency"])
def test_a_bound_that_somebody_has_set_is_kept(
    server: EmbeddedValkey,
    new_broker: NewBroker,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
    bound: str,
) -> None:
    options: dict[str, Any] = {"concurrency": {"work": 3}} if bound == "a concurrency" else {}
    if not options:
        for module in ("dramatiq.worker", "broker.worker_process"):
            monkeypatch.setattr(f"{module}.QUEUE_PREFETCH", 3)
    streams = new_broker("streams", server.url, **options)
    assert isinstance(streams, StreamsBroker)
    jobs = Jobs(streams)
    jobs.go_on.set()
    start_worker(streams)
    jobs.runs.take(JOBS)
    assert max(jobs.held) <= 3


def test_what_limits_for_all_workers_let_through_is_not_taken_ahead(
    streams: StreamsBroker, start_worker: StartWorker
) -> None:
    streams.inspector.limit("work", QueueLimit(rate=100_000))
    jobs = Jobs(streams)
    jobs.go_on.set()
    start_worker(streams, threads=1)
    jobs.runs.take(JOBS)
    assert max(jobs.held) <= PREFETCH
