"""What a job's record says at every point of its life, and what stays of it."""

from __future__ import annotations

import threading
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Message

from broker import (
    InvalidOption,
    JobUnknown,
    Keep,
    NoCurrentJob,
    Retention,
    State,
    StreamsBroker,
    WaitTimeout,
    current_job,
)
from broker.embedded import EmbeddedValkey
from broker.job_record import JobRecord
from broker.jobs import Jobs
from tests.conftest import NewBroker, StartWorker
from tests.waiting import PATIENCE_S, eventually, wait_for

PATIENCE_MS = int(PATIENCE_S * 1000)


def get(broker: StreamsBroker, message: Message[Any]) -> JobRecord:
    record = broker.jobs.get(message)
    assert record is not None
    return record


def test_a_record_follows_its_job_from_queued_to_completed(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    running, go_on = threading.Event(), threading.Event()

    @dramatiq.actor
    def act() -> None:
        running.set()
        wait_for(go_on, "the test to go on")

    message = act.send()
    queued = get(broker, message)
    assert (queued.state, queued.actor, queued.queue) == (State.QUEUED, "act", "default")
    assert queued.queued_at == message.message_timestamp
    assert (queued.attempts, queued.started_at, queued.worker) == (0, None, "")

    start_worker(broker)
    wait_for(running, "the job to begin")
    during = eventually(lambda: get(broker, message), lambda found: found.started_at is not None)
    assert (during.state, during.attempts) == (State.RUNNING, 1)
    assert during.worker == broker.consumer_name

    go_on.set()
    done = broker.jobs.wait(message, timeout=PATIENCE_MS)
    assert (done.state, done.attempts, done.deliveries) == (State.COMPLETED, 1, 1)
    assert done.started_at is not None
    assert done.finished_at is not None
    assert done.queued_at == message.message_timestamp
    assert done.finished_at >= done.started_at
    assert done.run_ms == done.finished_at - done.started_at
    assert done.wait_ms is not None
    assert (done.worker, done.error) == (broker.consumer_name, "")


def test_a_failing_job_is_retrying_and_then_dead_with_its_last_error(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    @dramatiq.actor(max_retries=1, min_backoff=200, max_backoff=200)
    def act() -> None:
        raise ValueError(f"attempt {current_job().attempt}")

    message = act.send()
    start_worker(broker)
    between = eventually(lambda: get(broker, message), lambda found: found.state is State.RETRYING)
    assert (between.attempts, between.error) == (1, "ValueError: attempt 1")
    assert between.due_at is not None
    dead = broker.jobs.wait(message, timeout=PATIENCE_MS)
    assert (dead.state, dead.attempts, dead.error) == (State.DEAD, 2, "ValueError: attempt 2")


def test_a_scheduled_job_says_when_it_is_due(broker: StreamsBroker, client: redis.Redis) -> None:
    @dramatiq.actor
    def act() -> None: ...

    before = client.time()[0] * 1000
    message = act.send_with_options(delay=60_000)
    record = get(broker, message)
    assert record.state is State.SCHEDULED
    assert record.due_at is not None
    assert record.due_at - before == pytest.approx(60_000, abs=5_000)


def test_a_job_is_found_by_its_id_in_whichever_queue_it_is(broker: StreamsBroker) -> None:
    @dramatiq.actor(queue_name="one")
    def first() -> None: ...

    @dramatiq.actor(queue_name="two")
    def second() -> None: ...

    one, two = first.send(), second.send()
    found = broker.jobs.get_many([two.message_id, "nobody", one, two])
    assert [record and record.queue for record in found] == ["two", None, "one", "two"]
    assert broker.jobs.get("nobody") is None


def test_progress_is_noted_while_the_job_runs(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    noted, go_on = threading.Event(), threading.Event()

    @dramatiq.actor
    def act() -> None:
        assert current_job().progress(0.4, note="half of it, nearly")
        noted.set()
        wait_for(go_on, "the test to go on")

    message = act.send()
    start_worker(broker)
    wait_for(noted, "the progress")
    record = get(broker, message)
    assert (record.progress, record.note) == (0.4, "half of it, nearly")
    go_on.set()
    assert broker.jobs.wait(message, timeout=PATIENCE_MS).progress == 0.4


def test_an_asyncio_job_can_say_its_progress(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    @dramatiq.actor
    async def act() -> None:
        assert current_job().actor == "act"
        current_job().progress(1)

    message = act.send()
    start_worker(broker)
    record = broker.jobs.wait(message, timeout=PATIENCE_MS)
    assert (record.state, record.progress) == (State.COMPLETED, 1.0)


def test_there_is_no_current_job_outside_of_one(broker: StreamsBroker) -> None:
    with pytest.raises(NoCurrentJob):
        current_job()


def test_progress_outside_of_0_to_1_is_refused(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    refused: list[str] = []

    @dramatiq.actor
    def act() -> None:
        try:
            current_job().progress(40)
        except InvalidOption as error:
            refused.append(str(error))

    message = act.send()
    start_worker(broker)
    broker.jobs.wait(message, timeout=PATIENCE_MS)
    assert refused == ["fraction: must be from 0 to 1, got 40"]


def test_a_job_without_records_leaves_nothing_but_its_end(
    broker: StreamsBroker, start_worker: StartWorker, client: redis.Redis
) -> None:
    @dramatiq.actor(records=False)
    def act() -> None:
        assert not current_job().progress(0.5)

    message = act.send()
    assert broker.jobs.get(message) is None
    with pytest.raises(JobUnknown):
        broker.jobs.wait(message)
    start_worker(broker)
    ended = eventually(lambda: broker.jobs.get(message), lambda found: found is not None)
    assert ended is not None
    assert (ended.state, ended.finished_at, ended.actor) == (State.COMPLETED, None, "")
    keys = broker.commands.keys("default")
    assert not client.exists(keys.events, keys.recent("completed"))
    assert client.pttl(keys.job_prefix + message.message_id) > 0


def test_a_message_of_another_language_gets_a_record_when_it_is_delivered(
    broker: StreamsBroker, start_worker: StartWorker, client: redis.Redis
) -> None:
    @dramatiq.actor
    def act() -> None: ...

    fields: Any = {"id": "foreign", "actor": "act", "at": "1700000000000", "args": "[]"}
    start_worker(broker)
    client.xadd(broker.commands.keys("default").ready[0], fields)
    client.sadd(f"{{{broker.namespace}}}:queues", "default")
    found = eventually(
        lambda: broker.jobs.get("foreign"),
        lambda found: found is not None and found.state is State.COMPLETED,
    )
    assert found is not None
    assert (found.actor, found.queued_at, found.attempts) == ("act", 1_700_000_000_000, 1)


def test_a_redriven_job_begins_anew(broker: StreamsBroker, start_worker: StartWorker) -> None:
    broken = threading.Event()
    broken.set()

    @dramatiq.actor(max_retries=0)
    def act() -> None:
        if broken.is_set():
            raise ValueError

    message = act.send()
    start_worker(broker)
    assert broker.jobs.wait(message, timeout=PATIENCE_MS).state is State.DEAD
    broken.clear()
    broker.inspector.redrive("default")
    record = broker.jobs.wait(message, timeout=PATIENCE_MS)
    assert (record.state, record.error) == (State.COMPLETED, "")
    assert broker.jobs.list("default", State.DEAD).records == []


def test_the_newest_records_stay_and_the_others_go(
    server: EmbeddedValkey, new_broker: NewBroker, start_worker: StartWorker, client: redis.Redis
) -> None:
    retention = {"default": Retention(completed=Keep(count=3))}
    broker = new_broker("streams", server.url, retention=retention)
    assert isinstance(broker, StreamsBroker)

    @dramatiq.actor
    def act() -> None: ...

    sent = broker.enqueue_many(act.message() for _ in range(20))
    start_worker(broker, threads=1)
    broker.jobs.wait(sent[-1], timeout=PATIENCE_MS)
    keys = broker.commands.keys("default")
    eventually(lambda: client.zcard(keys.recent("completed")), lambda left: left == 3)
    kept = broker.jobs.list("default", "completed").records
    # The others are remembered for their idempotency, and for no longer.
    gone = {m.message_id for m in sent} - {record.id for record in kept}
    assert all(0 < client.pttl(keys.job_prefix + id) <= 60_000 for id in gone)


def test_remove_on_complete_keeps_no_record_at_all(
    server: EmbeddedValkey, new_broker: NewBroker, start_worker: StartWorker, client: redis.Redis
) -> None:
    retention = {"default": Retention(completed=Keep(count=0))}
    broker = new_broker("streams", server.url, retention=retention)
    assert isinstance(broker, StreamsBroker)

    @dramatiq.actor
    def act() -> None: ...

    message = act.send()
    start_worker(broker)
    eventually(lambda: get(broker, message), lambda found: found.state is State.COMPLETED)
    assert broker.jobs.list("default", State.COMPLETED).records == []


def test_a_wait_ends_with_its_time_and_the_job_goes_on(broker: StreamsBroker) -> None:
    @dramatiq.actor
    def act() -> None: ...

    message = act.send()
    with pytest.raises(WaitTimeout) as late:
        broker.jobs.wait(message, timeout=50)
    assert late.value.record.state is State.QUEUED
    assert get(broker, message).state is State.QUEUED


def test_a_wait_for_what_has_ended_returns_at_once(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    @dramatiq.actor
    def act() -> None: ...

    message = act.send()
    start_worker(broker)
    first = broker.jobs.wait(message, timeout=PATIENCE_MS)
    assert broker.jobs.wait(message, timeout=0) == first


def test_pages_of_every_state_list_each_job_once(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    @dramatiq.actor
    def act() -> None: ...

    queued = {act.send_with_options(broker_priority=n % 3).message_id for n in range(7)}
    scheduled = {act.send_with_options(delay=60_000 + n).message_id for n in range(5)}

    def ids(state: str) -> list[str]:
        found, cursor = [], None
        while True:
            page = broker.jobs.list("default", state, cursor, limit=2)
            found += [record.id for record in page.records]
            if page.cursor is None:
                return found
            cursor = page.cursor

    assert sorted(ids("queued")) == sorted(queued)
    assert sorted(ids("scheduled")) == sorted(scheduled)
    start_worker(broker)
    for id in queued:
        broker.jobs.wait(id, timeout=PATIENCE_MS)
    assert sorted(ids("completed")) == sorted(queued)
    assert ids("queued") == ids("running") == ids("dead") == []


@pytest.mark.parametrize(
    ("state", "cursor", "field"),
    [("done", None, "state"), ("queued", "x", "cursor"), ("dead", "0-1", "cursor")],
)
def test_a_listing_that_makes_no_sense_is_refused(
    broker: StreamsBroker, state: str, cursor: str | None, field: str
) -> None:
    with pytest.raises(InvalidOption, match=field):
        broker.jobs.list("default", state, cursor)


def test_a_final_state_seen_once_is_not_taken_back_by_a_replica_that_lags(
    broker: StreamsBroker, start_worker: StartWorker, client: redis.Redis
) -> None:
    @dramatiq.actor
    def act() -> None: ...

    message = act.send()
    record = broker.commands.keys("default").job_prefix + message.message_id
    before: Any = client.dump(record)
    start_worker(broker)
    done = broker.jobs.wait(message, timeout=PATIENCE_MS)
    client.restore(record, 0, before, replace=True)  # what a replica that lags still shows
    assert broker.jobs.get(message) == done
    # Another reader has not seen the end, and one that knows it believes a new life.
    assert Jobs(broker.commands, broker.inspector.queues).get(message) != done
    client.hset(record, "token", "redrive")
    assert get(broker, message).state is State.QUEUED
