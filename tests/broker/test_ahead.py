"""How many jobs a worker takes ahead, and what becomes of those that it took in vain."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from queue import PriorityQueue
from typing import Any

import dramatiq
import pytest
from dramatiq import Message

from broker import QueueLimit, State, StreamsBroker, ahead
from broker.ahead import Ahead, withdraw
from broker.delivery import Delivery, Lease
from broker.embedded import EmbeddedValkey
from broker.in_flight import InFlight
from tests.conftest import NewBroker, StartWorker
from tests.contract.recording import Seen
from tests.faults.proxy import Proxy
from tests.waiting import PATIENCE_S, eventually, wait_for

JOBS, SLOW = 600, 400
#: Two a thread; the workers here have one.
PREFETCH = 2


class Clock:
    """Stands in for the module `time`; moved by hand, until it goes.

    While it stands, whatever a worker runs is short: it reaches out on every machine.
    """

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._began: float | None = None

    def monotonic(self) -> float:
        return self.now_s + (0 if self._began is None else time.monotonic() - self._began)

    def go(self) -> None:
        """From now on as the real one; what it was looked at for is long ago."""
        self.now_s += ahead.STALE_MS / 1000
        self._began = time.monotonic()


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


def delivery(number: int, queue: str = "work") -> Delivery:
    message: Message[None] = Message(queue, "job", (), {}, {})
    return Delivery(message, Lease(0, b"1-%d" % number, 1, "me"))


def test_a_consumer_in_the_place_of_another_counts_from_where_that_one_was(clock: Clock) -> None:
    held = InFlight()
    for number in range(500):
        held.add([one := delivery(number)])
        held.remove(one)
    assert after(clock, held.ahead(16, fixed=False), ended=held.ended + 1, ms=5) == 16


@dataclass(order=True)
class Item:
    """As what Dramatiq's worker has in its work queue."""

    place: int
    message: Delivery = field(compare=False)


class Noting(PriorityQueue[Item]):
    """Notes what is put into it, in that order."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[int] = []

    def put(self, item: Item, *args: Any, **kwargs: Any) -> None:
        self.noted.append(item.place)
        super().put(item, *args, **kwargs)


def test_the_last_ones_of_the_queue_go_and_a_thread_that_waits_meanwhile_gets_the_first() -> None:
    waiting = Noting()
    for place in range(8):
        waiting.put(Item(place, delivery(place, "other" if place % 4 == 3 else "work")))
    waiting.noted.clear()
    gone = withdraw(waiting, "work", 3)
    assert [each.lease.entry_id for each in gone] == [b"1-4", b"1-5", b"1-6"]
    assert waiting.noted == [0, 1, 2, 3, 7]
    assert waiting.unfinished_tasks == 5


def wait_for_word_of(message: Message[None], streams: StreamsBroker) -> None:
    """Wait until its job is known to have begun and not to have ended."""
    record = eventually(
        lambda: streams.jobs.get(message),
        lambda found: found is not None and found.started_at is not None,
        what="its start",
    )
    assert record is not None
    assert record.finished_at is None


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

    def wait_until_slow(self) -> None:
        """Wait until the slow job runs and others were taken ahead, which it keeps waiting."""
        wait_for(self.blocked, "the slow job")
        eventually(self.held_now, lambda held: held > PREFETCH, what="jobs were taken ahead")

    def finish(self) -> None:
        """Let them go on, and see that each of them ran once."""
        self.go_on.set()
        assert sorted(self.runs.take(JOBS)) == list(range(JOBS))
        self.streams.join("work", timeout=int(PATIENCE_S * 1000))
        assert self.runs.nothing_more(0)


@pytest.fixture
def streams(server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    made = new_broker("streams", server.url)
    assert isinstance(made, StreamsBroker)
    return made


@pytest.fixture
def held_up(streams: StreamsBroker, start_worker: StartWorker, clock: Clock) -> Jobs:
    """A worker with one thread, which has taken jobs ahead, has come to the slow job."""
    jobs = Jobs(streams)
    start_worker(streams, threads=1)
    jobs.wait_until_slow()
    clock.go()
    return jobs


def test_what_a_slow_job_keeps_waiting_goes_back_for_others_to_run(
    streams: StreamsBroker, held_up: Jobs
) -> None:
    eventually(held_up.held_now, lambda held: held <= PREFETCH, what="the rest was handed back")
    assert streams.worker.in_flight("work").ended == SLOW, "what goes back has not ended"
    eventually(
        lambda: streams.inspector.queue("work"),
        lambda info: info.in_flight <= PREFETCH and info.ready >= JOBS - SLOW - PREFETCH,
        what="the server has the rest",
    )
    held_up.finish()


def test_a_slow_job_among_short_ones_is_told_of_while_it_runs(
    streams: StreamsBroker, held_up: Jobs
) -> None:
    wait_for_word_of(held_up.messages[SLOW], streams)
    held_up.finish()


def test_slow_jobs_within_the_prefetch_are_told_of_while_they_run(
    streams: StreamsBroker,
    start_worker: StartWorker,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ahead, "_MOST", 6)  # so that four are too many for it to fetch again
    go_on, slow = threading.Event(), threading.Semaphore(0)

    @dramatiq.actor(queue_name="work", broker=streams)
    def job(number: int) -> None:
        if number >= SLOW:
            slow.release()
            wait_for(go_on, "permission")

    messages = [job.message(number) for number in range(SLOW + 2 * PREFETCH)]
    streams.enqueue_many(messages)
    start_worker(streams, threads=2)
    slow_ones = messages[SLOW : SLOW + 2]
    for _ in slow_ones:
        assert slow.acquire(timeout=PATIENCE_S)
    clock.go()
    for message in slow_ones:
        wait_for_word_of(message, streams)
    go_on.set()
    streams.join("work", timeout=int(PATIENCE_S * 1000))


def test_a_process_that_drains_tells_of_the_slow_job_that_it_waits_for(
    streams: StreamsBroker, held_up: Jobs
) -> None:
    draining = threading.Thread(target=streams.worker.drain)
    draining.start()
    wait_for_word_of(held_up.messages[SLOW], streams)
    held_up.go_on.set()
    draining.join(PATIENCE_S)
    assert not draining.is_alive()
    assert streams.inspector.queue("work").in_flight == 0


def test_a_paused_worker_hands_back_and_the_consumer_that_follows_tells_of_what_runs(
    streams: StreamsBroker, start_worker: StartWorker, clock: Clock
) -> None:
    jobs = Jobs(streams)
    consumer = start_worker(streams, threads=1).consumers["work"]
    jobs.wait_until_slow()
    clock.go()
    consumer.pause()
    wait_for(consumer.paused_event, "the pause")
    eventually(jobs.held_now, lambda held: held <= PREFETCH, what="the rest was handed back")
    consumer.resume()
    wait_for_word_of(jobs.messages[SLOW], streams)
    jobs.finish()


def test_a_job_that_is_taken_ahead_is_cancelled_before_and_after_it_has_gone_back(
    streams: StreamsBroker, held_up: Jobs
) -> None:
    before, after = held_up.messages[SLOW + PREFETCH], held_up.messages[SLOW + PREFETCH + 1]
    assert streams.jobs.cancel(before)
    eventually(held_up.held_now, lambda held: held <= PREFETCH, what="the rest was handed back")
    assert streams.jobs.cancel(after)
    for message in (before, after):
        found = streams.jobs.wait(message, timeout=int(PATIENCE_S * 1000))
        assert found.state is State.CANCELLED
    held_up.go_on.set()
    assert len(set(held_up.runs.take(JOBS - 2))) == JOBS - 2
    streams.join("work", timeout=int(PATIENCE_S * 1000))
    assert held_up.runs.nothing_more(0)


@pytest.fixture
def proxy(server: EmbeddedValkey) -> Iterator[Proxy]:
    made = Proxy(server.port)
    yield made
    made.close()


def test_what_goes_back_by_a_script_that_is_not_answered_runs_once(
    proxy: Proxy, new_broker: NewBroker, start_worker: StartWorker, clock: Clock
) -> None:
    streams = new_broker("streams", proxy.url)
    assert isinstance(streams, StreamsBroker)
    jobs = Jobs(streams)
    cut = proxy.cut(b"\xa7release")  # as a settlement has it
    start_worker(streams, threads=1)
    jobs.wait_until_slow()
    clock.go()
    wait_for(cut.happened, "the cut")
    jobs.finish()  # at once: they come back before the release is tried again


def test_each_beginning_and_each_end_of_short_jobs_is_told_once_and_in_order(
    streams: StreamsBroker, held_up: Jobs
) -> None:
    held_up.finish()
    told: dict[str, list[str]] = {message.message_id: [] for message in held_up.messages}
    for event in reversed(streams.events.latest("work", 10 * JOBS)):
        told[event.message_id].append(event.name)
    assert Counter(map(tuple, told.values())) == {("queued", "started", "completed"): JOBS}


@pytest.mark.parametrize("bound", ["a prefetch that somebody has set", "a concurrency"])
def test_a_bound_that_somebody_has_set_is_kept(
    server: EmbeddedValkey,
    new_broker: NewBroker,
    start_worker: StartWorker,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    bound: str,
) -> None:
    options: dict[str, Any] = {"concurrency": {"work": 3}} if bound == "a concurrency" else {}
    if not options:
        # As the environment does it: both have read that when they were imported.
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
    streams: StreamsBroker, start_worker: StartWorker, clock: Clock
) -> None:
    streams.inspector.limit("work", QueueLimit(rate=100_000))
    jobs = Jobs(streams)
    jobs.go_on.set()
    start_worker(streams, threads=1)
    jobs.runs.take(JOBS)
    assert max(jobs.held) <= PREFETCH
