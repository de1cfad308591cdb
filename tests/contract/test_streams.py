"""What StreamsBroker has beyond the stock broker."""

from __future__ import annotations

import json
import threading
import time
from typing import Any, cast

import dramatiq
import pytest
import redis
from dramatiq import Broker, Message
from dramatiq.middleware import CurrentMessage, Middleware, MiddlewareError

from broker import QueueLimit, StreamsBroker
from broker.commands import Commands, Fetched
from broker.embedded import EmbeddedValkey
from tests.conftest import NewBroker, NewServer, StartWorker
from tests.contract.recording import Seen
from tests.waiting import PATIENCE_S, QUIET_S, eventually, wait_for

TIMEOUT_MS = int(PATIENCE_S * 1000)


@pytest.fixture
def streams(server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    made = new_broker("streams", server.url)
    assert isinstance(made, StreamsBroker)
    return made


class Recorder:
    """An actor on the queue `work` that records its argument."""

    def __init__(self) -> None:
        self.seen = Seen()

        @dramatiq.actor(queue_name="work", max_retries=0)
        def record(value: Any) -> None:
            self.seen.add(value)
            if value == "fail":
                raise RuntimeError("on purpose")

        self.actor = record


def test_a_higher_priority_is_executed_first(
    streams: StreamsBroker, start_worker: StartWorker
) -> None:
    recorder = Recorder()
    for priority in (0, 3, 9, 1):
        recorder.actor.send_with_options(args=(priority,), broker_priority=priority)
    recorder.actor.send("default")
    start_worker(streams, threads=1)
    assert recorder.seen.take(5) == [9, 3, 1, 0, "default"]


def test_a_job_of_the_highest_of_all_priorities_is_delayed_executed_and_finished(
    server: EmbeddedValkey, new_broker: NewBroker, start_worker: StartWorker
) -> None:
    broker = new_broker("streams", server.url, max_priority=255)
    recorder = Recorder()
    for delay in (None, 10):
        recorder.actor.send_with_options(args=(delay,), delay=delay, broker_priority=255)
    start_worker(broker, threads=1)
    assert recorder.seen.take(2) == [None, 10]
    assert isinstance(broker, StreamsBroker)
    broker.join("work", timeout=TIMEOUT_MS)


def test_a_priority_survives_a_delay_and_a_retry(
    streams: StreamsBroker, start_worker: StartWorker
) -> None:
    streams.add_middleware(CurrentMessage())
    seen = Seen()

    @dramatiq.actor(queue_name="work", max_retries=1, min_backoff=10, max_backoff=10)
    def fail() -> None:
        current = CurrentMessage.get_current_message()
        assert current is not None
        seen.add(current.options["broker_priority"])
        raise RuntimeError("on purpose")

    start_worker(streams, threads=1)
    fail.send_with_options(delay=10, broker_priority=5)
    assert seen.take(2) == [5, 5]


def test_a_deduplication_key_admits_one_message_until_it_is_finished(
    streams: StreamsBroker, start_worker: StartWorker
) -> None:
    recorder = Recorder()
    first = recorder.actor.send_with_options(args=(1,), deduplication_key="welcome:u1")
    again = recorder.actor.send_with_options(args=(2,), deduplication_key="welcome:u1")
    later = recorder.actor.send_with_options(args=(3,), deduplication_key="welcome:u1", delay=1)
    other = recorder.actor.send_with_options(args=(4,), deduplication_key="welcome:u2")
    assert first.message_id == again.message_id == later.message_id != other.message_id
    start_worker(streams, threads=1)
    assert recorder.seen.take(2) == [1, 4]
    streams.join("work", timeout=TIMEOUT_MS)
    recorder.actor.send_with_options(args=(5,), deduplication_key="welcome:u1")
    assert recorder.seen.next() == 5
    assert recorder.seen.nothing_more(0.1)


def test_a_deduplication_key_is_free_again_after_a_burial(
    streams: StreamsBroker, start_worker: StartWorker
) -> None:
    recorder = Recorder()
    start_worker(streams, threads=1)
    recorder.actor.send_with_options(args=("fail",), deduplication_key="key")
    assert recorder.seen.next() == "fail"
    streams.join("work", timeout=TIMEOUT_MS)
    recorder.actor.send_with_options(args=("after",), deduplication_key="key")
    assert recorder.seen.next() == "after"


def test_many_messages_are_enqueued_at_once_on_several_queues(
    streams: StreamsBroker, start_worker: StartWorker
) -> None:
    recorder = Recorder()

    @dramatiq.actor(queue_name="other")
    def other(value: int) -> None:
        recorder.seen.add(value)

    messages = [recorder.actor.message(n) for n in range(500)]
    messages += [other.message(n) for n in range(500, 600)]
    sent = streams.enqueue_many(messages)
    assert [m.message_id for m in sent] == [m.message_id for m in messages]
    assert streams.inspector.queue("work").ready == 500
    assert streams.inspector.queue("other").ready == 100
    streams.enqueue_many([other.message(n) for n in range(600, 610)], delay=1)
    start_worker(streams, threads=4)
    assert sorted(recorder.seen.take(610)) == list(range(610))


@pytest.mark.parametrize("delay", [None, 60_000])
def test_many_large_messages_are_no_single_large_command(
    own_server: NewServer, new_broker: NewBroker, delay: int | None
) -> None:
    streams = new_broker("streams", own_server().url)
    assert isinstance(streams, StreamsBroker)
    recorder, client = Recorder(), cast(Any, streams.client)
    streams.enqueue_many([recorder.actor.message("first")], delay=delay)
    before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    sizes = [100_000, 100_000, 100_000, 300_000, 10, 10, 200_000]
    messages = [recorder.actor.message("x" * size) for size in sizes]
    sent = streams.enqueue_many(messages, delay=delay)
    # Two of 100,000 bytes; one; 300,000; the rest.
    assert client.info("commandstats")["cmdstat_evalsha"]["calls"] - before == 4
    assert [m.message_id for m in sent] == [m.message_id for m in messages]
    info = streams.inspector.queue("work")
    assert info.ready + info.scheduled == 1 + len(sizes)


def test_an_enqueue_repeated_before_the_message_has_run_changes_nothing(
    streams: StreamsBroker, start_worker: StartWorker
) -> None:
    recorder = Recorder()
    now, later = recorder.actor.message("now"), recorder.actor.message("later")
    for _ in range(3):
        streams.enqueue(now)
        streams.enqueue(later, delay=200)
    info = streams.inspector.queue("work")
    assert (info.ready, info.scheduled) == (1, 1)
    start_worker(streams, threads=1)
    assert recorder.seen.take(2) == ["now", "later"]
    streams.join("work", timeout=TIMEOUT_MS)
    assert recorder.seen.nothing_more(0.1)


@pytest.mark.parametrize("delivery", ["ready", "delayed"])
def test_a_queues_concurrency_is_a_hard_cap_and_other_queues_go_on(
    server: EmbeddedValkey, new_broker: NewBroker, start_worker: StartWorker, delivery: str
) -> None:
    streams = new_broker("streams", server.url, concurrency={"capped": 2})
    seen = Seen()
    finish = threading.Semaphore(0)
    running: list[int] = []
    most: list[int] = []
    lock = threading.Lock()

    @dramatiq.actor(queue_name="capped")
    def capped(value: int) -> None:
        with lock:
            running.append(value)
            most.append(len(running))
        seen.add("started")
        assert finish.acquire(timeout=PATIENCE_S)
        with lock:
            running.remove(value)

    @dramatiq.actor(queue_name="free")
    def free() -> None:
        seen.add("free")

    for value in range(6):
        capped.send_with_options(args=(value,), delay=1 if delivery == "delayed" else None)
    start_worker(streams, threads=8)
    assert seen.take(2) == ["started", "started"]
    assert seen.nothing_more()
    free.send()
    assert seen.next() == "free"
    for _ in range(4):
        finish.release()
        assert seen.next() == "started"
    finish.release(2)
    streams.join("capped", timeout=TIMEOUT_MS)
    assert max(most) == 2


def test_a_batch_of_several_priorities_keeps_to_a_queues_concurrency(
    server: EmbeddedValkey,
    new_broker: NewBroker,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams = new_broker("streams", server.url, concurrency={"work": 1})
    assert isinstance(streams, StreamsBroker)
    seen, finish = Seen(), threading.Semaphore(0)

    @dramatiq.actor(queue_name="work", broker=streams)
    def work(priority: int) -> None:
        seen.add(priority)
        assert finish.acquire(timeout=PATIENCE_S)

    messages = [work.message_with_options(args=(n,), broker_priority=n) for n in range(3)]
    fetch, armed = Commands.fetch, threading.Event()

    def fetch_before_they_come(commands: Commands, *args: Any, **kwargs: Any) -> Fetched:
        fetched = fetch(commands, *args, **kwargs)
        if armed.is_set():  # the blocked read is next, and finds an entry in each level
            armed.clear()
            streams.enqueue_many(messages)
        return fetched

    monkeypatch.setattr(Commands, "fetch", fetch_before_they_come)
    armed.set()
    start_worker(streams, threads=4)
    for priority in (2, 1, 0):
        assert seen.next() == priority
        assert seen.nothing_more(), "a second job was started"
        finish.release()
    streams.join("work", timeout=TIMEOUT_MS)


def limited(new_broker: NewBroker, server: EmbeddedValkey, limit: QueueLimit) -> StreamsBroker:
    made = new_broker("streams", server.url, limits={"work": limit})
    assert isinstance(made, StreamsBroker)
    return made


def test_a_global_concurrency_holds_over_all_workers(
    server: EmbeddedValkey, new_broker: NewBroker, start_worker: StartWorker
) -> None:
    running = threading.Semaphore(0)
    release, most, now = threading.Event(), [0], [0]
    lock = threading.Lock()

    def hold() -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        running.release()
        assert release.wait(PATIENCE_S)
        with lock:
            now[0] -= 1

    for _ in range(2):
        streams = limited(new_broker, server, QueueLimit(3))
        dramatiq.actor(queue_name="work", broker=streams)(hold)
        start_worker(streams, threads=4)
    streams.enqueue_many([streams.get_actor("hold").message() for _ in range(8)])
    for _ in range(3):
        assert running.acquire(timeout=PATIENCE_S)
    assert not running.acquire(timeout=QUIET_S), "a fourth job was started"
    release.set()
    streams.join("work", timeout=TIMEOUT_MS)
    assert most == [3]


def test_a_rate_bounds_the_starts_of_a_period_over_all_workers(
    server: EmbeddedValkey, new_broker: NewBroker, start_worker: StartWorker
) -> None:
    seen = Seen()
    for _ in range(2):
        streams = limited(new_broker, server, QueueLimit(rate=3, per_ms=600_000))
        dramatiq.actor(queue_name="work", broker=streams, actor_name="record")(seen.add)
        start_worker(streams, threads=4)
    streams.enqueue_many([streams.get_actor("record").message(n) for n in range(8)])
    seen.take(3)
    assert seen.nothing_more()
    streams.inspector.limit("work", QueueLimit())
    assert len(seen.take(5)) == 5


def test_what_an_operator_set_outlives_workers_whose_settings_say_nothing_of_the_queue(
    server: EmbeddedValkey, new_broker: NewBroker, start_worker: StartWorker
) -> None:
    streams = limited(new_broker, server, QueueLimit(1))
    seen = Seen()
    actor = dramatiq.actor(queue_name="other", broker=streams, actor_name="record")(seen.add)
    streams.inspector.limit("other", QueueLimit(rate=2, per_ms=600_000))
    start_worker(streams)
    for n in range(3):
        actor.send(n)
    assert seen.take(2) == [0, 1]
    assert seen.nothing_more()


def test_a_server_that_is_away_when_the_worker_boots_gets_the_limits_later(
    own_server: NewServer, new_broker: NewBroker, start_worker: StartWorker
) -> None:
    server = own_server()
    streams = limited(new_broker, server, QueueLimit(rate=2, per_ms=600_000))
    seen = Seen()
    actor = dramatiq.actor(queue_name="work", broker=streams, actor_name="record")(seen.add)
    server.stop()
    start_worker(streams)
    server.start()
    streams.enqueue_many([actor.message(n) for n in range(5)])
    seen.take(2)
    assert seen.nothing_more()


def test_a_paused_queue_hands_nothing_over_until_it_is_resumed(
    streams: StreamsBroker, start_worker: StartWorker
) -> None:
    recorder = Recorder()
    start_worker(streams)
    recorder.actor.send("before")
    assert recorder.seen.next() == "before"
    streams.inspector.pause("work")
    assert streams.inspector.queue("work").paused
    recorder.actor.send("ready")
    recorder.actor.send_with_options(args=("delayed",), delay=1)
    assert recorder.seen.nothing_more()
    streams.inspector.resume("work")
    assert not streams.inspector.queue("work").paused
    assert sorted(recorder.seen.take(2)) == ["delayed", "ready"]


def test_a_queue_paused_before_the_worker_boots_stays_paused(
    streams: StreamsBroker, start_worker: StartWorker
) -> None:
    recorder = Recorder()
    streams.inspector.pause("work")
    recorder.actor.send("ready")
    start_worker(streams)
    assert recorder.seen.nothing_more()
    streams.inspector.resume("work")
    assert recorder.seen.next() == "ready"


def test_a_pause_between_a_fetch_and_the_blocked_read_after_it_holds(
    streams: StreamsBroker, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    fetch, armed = Commands.fetch, threading.Event()

    def fetch_then_pause(commands: Commands, *args: Any, **kwargs: Any) -> Fetched:
        fetched = fetch(commands, *args, **kwargs)
        if armed.is_set():
            armed.clear()
            streams.inspector.pause("work")
            recorder.actor.send("late")
        return fetched

    monkeypatch.setattr(Commands, "fetch", fetch_then_pause)
    armed.set()
    start_worker(streams)
    eventually(armed.is_set, lambda is_set: not is_set)
    assert recorder.seen.nothing_more()
    assert streams.inspector.queue("work").ready == 1
    streams.inspector.resume("work")
    assert recorder.seen.next() == "late"


def test_the_inspector_counts_every_state(
    streams: StreamsBroker, start_worker: StartWorker
) -> None:
    recorder = Recorder()
    started, finish = threading.Event(), threading.Event()

    @dramatiq.actor(queue_name="work")
    def hold() -> None:
        started.set()
        wait_for(finish, "the permission to finish")

    worker = start_worker(streams, threads=1)
    recorder.actor.send("fail")
    assert recorder.seen.next() == "fail"
    streams.join("work", timeout=TIMEOUT_MS)
    hold.send()
    wait_for(started, "the job's start")
    assert streams.inspector.queue("work").in_flight == 1
    finish.set()
    worker.stop(timeout=TIMEOUT_MS)
    for _ in range(3):
        recorder.actor.send("ready")
    recorder.actor.send_with_options(args=("scheduled",), delay=60_000)
    info = streams.inspector.queue("work")
    assert (info.ready, info.scheduled, info.in_flight, info.dead) == (3, 1, 0, 1)
    assert info.oldest_age_ms is not None
    assert 0 <= info.oldest_age_ms < 60_000
    assert "work" in streams.inspector.queues()


def test_a_dead_letter_keeps_message_and_evidence_and_is_redriven(
    streams: StreamsBroker, start_worker: StartWorker
) -> None:
    recorder = Recorder()
    start_worker(streams, threads=1)
    sent = recorder.actor.send("fail")
    assert recorder.seen.next() == "fail"
    streams.join("work", timeout=TIMEOUT_MS)
    (letter,) = streams.inspector.dead("work")
    assert letter.reason == "retries_exhausted"
    assert "RuntimeError" in letter.error
    assert "on purpose" in letter.error
    assert letter.actor == "record"
    assert letter.message is not None
    assert letter.message.message_id == sent.message_id
    assert letter.message.args == ("fail",)
    assert streams.inspector.redrive("work", [letter.id]) == 1
    assert recorder.seen.next() == "fail"
    streams.join("work", timeout=TIMEOUT_MS)
    assert streams.inspector.queue("work").dead == 1
    assert streams.inspector.redrive("work", ["no such letter"]) == 0


def test_a_redriven_message_holds_its_deduplication_key_again(streams: StreamsBroker) -> None:
    recorder = Recorder()
    worker = dramatiq.Worker(streams, worker_threads=1)
    worker.start()
    sent = recorder.actor.send_with_options(args=("fail",), deduplication_key="welcome:u1")
    streams.join("work", timeout=TIMEOUT_MS)
    worker.stop(timeout=TIMEOUT_MS)
    assert streams.inspector.redrive("work") == 1
    again = recorder.actor.send_with_options(args=("later",), deduplication_key="welcome:u1")
    assert again.message_id == sent.message_id
    assert streams.inspector.queue("work").ready == 1


def test_a_redriven_message_leaves_its_deduplication_key_to_a_younger_one(
    streams: StreamsBroker,
) -> None:
    recorder = Recorder()
    worker = dramatiq.Worker(streams, worker_threads=1)
    worker.start()
    recorder.actor.send_with_options(args=("fail",), deduplication_key="welcome:u1")
    streams.join("work", timeout=TIMEOUT_MS)
    worker.stop(timeout=TIMEOUT_MS)
    younger = recorder.actor.send_with_options(args=("younger",), deduplication_key="welcome:u1")
    assert streams.inspector.redrive("work") == 1
    assert streams.inspector.queue("work").ready == 2
    again = recorder.actor.send_with_options(args=("later",), deduplication_key="welcome:u1")
    assert again.message_id == younger.message_id


@pytest.mark.parametrize(
    "written", [b"no msgpack \xc1", b"\x81\xa1a\xa1b", b"\x90", b"\x91\xa2id", b"\x92\xa2id\x90"]
)
def test_a_scheduled_message_that_cannot_be_read_is_buried_and_holds_up_nothing(
    streams: StreamsBroker, start_worker: StartWorker, written: bytes
) -> None:
    recorder = Recorder()
    keys = streams.commands.keys("work")
    streams.client.hset(keys.scheduled_messages, "wrong", written)
    streams.client.zadd(keys.scheduled, {"wrong": 1})
    recorder.actor.send_with_options(args=("right",), delay=1)
    start_worker(streams, threads=1)
    assert recorder.seen.next() == "right"
    streams.join("work", timeout=TIMEOUT_MS)
    (letter,) = streams.inspector.dead("work")
    assert (letter.id, letter.reason) == ("wrong", "undecodable")
    assert letter.fields == {"packed": written}


def test_entries_of_one_id_on_two_levels_are_two_jobs(
    streams: StreamsBroker, start_worker: StartWorker
) -> None:
    recorder = Recorder()
    for level in (0, 9):
        fields: dict[Any, Any] = {
            "id": f"m{level}",
            "actor": "record",
            "at": "1",
            "args": f"[{level}]",
        }
        streams.client.xadd(streams.commands.keys("work").ready[level], fields, id="1-1")
    start_worker(streams, threads=2)
    assert sorted(recorder.seen.take(2)) == [0, 9]
    streams.join("work", timeout=TIMEOUT_MS)
    assert streams.inspector.queue("work").in_flight == 0


def test_dead_letters_are_paged_and_redriven_all_at_once(
    streams: StreamsBroker, start_worker: StartWorker
) -> None:
    recorder = Recorder()
    worker = start_worker(streams, threads=1)
    for _ in range(7):
        recorder.actor.send("fail")
    assert recorder.seen.take(7) == ["fail"] * 7
    streams.join("work", timeout=TIMEOUT_MS)
    worker.stop(timeout=TIMEOUT_MS)
    pages = [streams.inspector.dead("work", offset=n, limit=3) for n in (0, 3, 6, 9)]
    assert [len(page) for page in pages] == [3, 3, 1, 0]
    assert len({letter.id for page in pages for letter in page}) == 7
    assert streams.inspector.redrive("work") == 7
    info = streams.inspector.queue("work")
    assert (info.ready, info.dead) == (7, 0)


def test_a_redriven_message_has_all_its_retries_again(
    streams: StreamsBroker, start_worker: StartWorker
) -> None:
    seen = Seen()

    @dramatiq.actor(queue_name="work", max_retries=1, min_backoff=10, max_backoff=10)
    def fail() -> None:
        seen.add("tried")
        raise RuntimeError("on purpose")

    start_worker(streams, threads=1)
    fail.send()
    assert seen.take(2) == ["tried"] * 2
    streams.join("work", timeout=TIMEOUT_MS)
    assert streams.inspector.redrive("work") == 1
    assert seen.take(2) == ["tried"] * 2
    streams.join("work", timeout=TIMEOUT_MS)
    assert seen.nothing_more(0.1)


def test_purging_drops_ready_and_scheduled_and_keeps_the_dead(
    streams: StreamsBroker, start_worker: StartWorker
) -> None:
    recorder = Recorder()
    worker = start_worker(streams, threads=1)
    recorder.actor.send("fail")
    assert recorder.seen.next() == "fail"
    streams.join("work", timeout=TIMEOUT_MS)
    worker.stop(timeout=TIMEOUT_MS)
    for _ in range(3):
        recorder.actor.send_with_options(args=("dropped",), broker_priority=2)
        recorder.actor.send_with_options(args=("dropped",), delay=60_000)
    assert streams.inspector.purge("work") == 6
    info = streams.inspector.queue("work")
    assert (info.ready, info.scheduled, info.dead) == (0, 0, 1)
    assert streams.inspector.purge_dead("work", older_than_ms=60_000) == 0
    assert streams.inspector.purge_dead("work") == 1
    assert streams.inspector.queue("work").dead == 0


class FailsOnce(Middleware):
    """Refuses the first retry it sees, as an encryption middleware without its key would."""

    def __init__(self) -> None:
        self.refused = threading.Event()

    def before_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        if "retries" in message.options and not self.refused.is_set():
            self.refused.set()
            raise MiddlewareError("no key")


def test_a_retry_that_cannot_be_prepared_leaves_the_job_to_be_delivered_again(
    server: EmbeddedValkey, new_broker: NewBroker, start_worker: StartWorker
) -> None:
    streams = new_broker("streams", server.url, heartbeat_timeout=1000)
    failing = FailsOnce()
    streams.add_middleware(failing)
    seen = Seen()

    @dramatiq.actor(queue_name="work", max_retries=1, min_backoff=10, max_backoff=10)
    def second_time() -> None:
        seen.add("tried")
        if not failing.refused.is_set():
            raise RuntimeError("on purpose")

    start_worker(streams, threads=1)
    second_time.send()
    assert seen.take(2) == ["tried", "tried"]
    assert failing.refused.is_set()
    streams.join("work", timeout=TIMEOUT_MS)


def test_an_exception_in_retry_when_leaves_the_job_to_be_delivered_again(
    server: EmbeddedValkey, new_broker: NewBroker, start_worker: StartWorker
) -> None:
    streams = new_broker("streams", server.url, heartbeat_timeout=1000)
    asked = threading.Event()
    seen = Seen()

    def broken(retries: int, exception: BaseException) -> bool:
        asked.set()
        raise ZeroDivisionError("broken predicate")

    @dramatiq.actor(queue_name="work", retry_when=broken)
    def second_time() -> None:
        seen.add("tried")
        if not asked.is_set():
            raise RuntimeError("on purpose")

    start_worker(streams, threads=1)
    second_time.send()
    assert seen.take(2) == ["tried", "tried"]
    streams.join("work", timeout=TIMEOUT_MS)


def test_a_retry_keeps_the_messages_id_and_leaves_one_copy(
    streams: StreamsBroker, start_worker: StartWorker
) -> None:
    seen = Seen()

    @dramatiq.actor(queue_name="work", min_backoff=60_000)
    def fail() -> None:
        seen.add("tried")
        raise RuntimeError("on purpose")

    start_worker(streams, threads=1)
    fail.send()
    assert seen.next() == "tried"
    info = eventually(
        lambda: streams.inspector.queue("work"), lambda i: i.in_flight == 0, what="settled"
    )
    assert (info.ready, info.scheduled, info.dead) == (0, 1, 0)


def test_a_message_written_by_another_language_is_executed(
    streams: StreamsBroker, start_worker: StartWorker, client: redis.Redis, namespace: str
) -> None:
    recorder = Recorder()
    start_worker(streams)
    client.xadd(
        f"{{{namespace}:work}}:ready:0",
        {"id": "7d2c", "actor": "record", "at": "1764000000000", "args": '["from elsewhere"]'},
    )
    assert recorder.seen.next() == "from elsewhere"


def foreign(client: redis.Redis, namespace: str, value: str, **options: object) -> None:
    """Another language's message for the recorder, with these options."""
    client.xadd(
        f"{{{namespace}:work}}:ready:0",
        {
            "id": f"id of {value}",
            "actor": "record",
            "at": int(time.time() * 1000),
            "args": json.dumps([value]),
            "options": json.dumps(options),
        },
    )


@pytest.mark.parametrize(
    "eta", [2**70, float("inf"), 4_000_000_000_000], ids=["huge", "infinite", "in 2096"]
)
def test_another_languages_message_with_an_eta_is_scheduled_and_takes_no_place(
    streams: StreamsBroker,
    start_worker: StartWorker,
    client: redis.Redis,
    namespace: str,
    eta: float,
) -> None:
    recorder = Recorder()
    for number in range(20):
        foreign(client, namespace, f"later {number}", eta=eta)
    start_worker(streams, threads=1)
    recorder.actor.send("now")
    assert recorder.seen.next() == "now"
    info = eventually(
        lambda: streams.inspector.queue("work"), lambda i: i.in_flight == 0, what="settled"
    )
    assert (info.ready, info.scheduled, info.dead) == (0, 20, 0)
    record = streams.jobs.get("id of later 7")
    assert record is not None
    assert (record.state.value, record.attempts) == ("scheduled", 0)
    assert streams.jobs.promote("id of later 7")
    assert recorder.seen.next() == "later 7"
    assert streams.jobs.wait("id of later 7", TIMEOUT_MS).state.value == "completed"
    assert streams.jobs.cancel("id of later 8")
    assert recorder.seen.nothing_more()


@pytest.mark.parametrize("eta", [None, "soon", 0, 1.5, -1, True, float("nan")], ids=repr)
def test_another_languages_message_whose_eta_is_over_or_none_runs_at_once(
    streams: StreamsBroker,
    start_worker: StartWorker,
    client: redis.Redis,
    namespace: str,
    eta: object,
) -> None:
    recorder = Recorder()
    foreign(client, namespace, "due", eta=eta, records="no bool")
    start_worker(streams, threads=1)
    assert recorder.seen.next() == "due"
    streams.join("work", timeout=TIMEOUT_MS)


def test_another_languages_message_runs_when_its_eta_comes(
    streams: StreamsBroker, start_worker: StartWorker, client: redis.Redis, namespace: str
) -> None:
    recorder = Recorder()
    eta = int(time.time() * 1000) + 700
    foreign(client, namespace, "then", eta=eta)
    start_worker(streams, threads=1)
    assert recorder.seen.next() == "then"
    assert time.time() * 1000 >= eta
    streams.join("work", timeout=TIMEOUT_MS)


@pytest.mark.parametrize("throws", ["ValueError", ["ValueError"], {"a": 1}, 7, True], ids=repr)
def test_an_option_throws_that_is_no_class_ends_no_thread(
    streams: StreamsBroker,
    start_worker: StartWorker,
    client: redis.Redis,
    namespace: str,
    throws: object,
) -> None:
    recorder = Recorder()
    for _ in range(2):
        foreign(client, namespace, "fail", throws=throws)
    start_worker(streams, threads=1)
    recorder.actor.send("after")
    assert sorted(recorder.seen.take(3)) == ["after", "fail", "fail"]
    streams.join("work", timeout=TIMEOUT_MS)
    assert [letter.reason for letter in streams.inspector.dead("work")] == ["retries_exhausted"] * 2


def test_construction_makes_no_connection() -> None:
    """A port where nobody listens is no error until something is sent."""
    made = StreamsBroker(url="redis://127.0.0.1:1/0")
    made.declare_queue("work")
    made.close()
