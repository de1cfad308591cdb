"""A process that takes no more jobs and waits for those it has."""

from __future__ import annotations

import threading

import dramatiq
import pytest
from dramatiq import Message

from broker import StreamsBroker
from broker.delivery import Delivery, Lease
from broker.embedded import EmbeddedValkey
from broker.in_flight import InFlight
from tests.conftest import NewBroker, StartWorker
from tests.waiting import PATIENCE_S, QUIET_S, eventually, wait_for


def delivery() -> Delivery:
    message: Message[None] = Message("work", "record", (), {}, {})
    return Delivery(message, Lease(0, b"1-1", 1, "me"))


@pytest.fixture
def streams(valkey_server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    made = new_broker("streams", valkey_server.url)
    assert isinstance(made, StreamsBroker)
    return made


def test_a_drained_process_has_ended_its_jobs_and_takes_no_more(
    streams: StreamsBroker, start_worker: StartWorker
) -> None:
    started, go_on = threading.Event(), threading.Event()

    @dramatiq.actor(queue_name="work")
    def job() -> None:
        started.set()
        wait_for(go_on, "permission")

    start_worker(streams, threads=1)
    job.send()
    wait_for(started, "the job's start")
    draining = threading.Thread(target=streams.worker.drain)
    draining.start()
    draining.join(QUIET_S)
    assert draining.is_alive()
    go_on.set()
    draining.join(PATIENCE_S)
    assert not draining.is_alive()
    job.send()
    info = eventually(lambda: streams.inspector.queue("work"), lambda info: info.in_flight == 0)
    assert info.ready == 1


def test_what_a_blocked_read_may_still_bring_is_waited_for() -> None:
    held = InFlight()
    held.begin_taking()
    waiting = threading.Thread(target=held.wait_for_end)
    waiting.start()
    late = delivery()
    held.add([late])
    held.stop_taking()
    waiting.join(QUIET_S)
    assert waiting.is_alive()
    held.remove(late)
    held.stop_taking()
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive()


def test_a_consumer_that_has_not_seen_it_yet_is_waited_for() -> None:
    held = InFlight()
    held.begin_taking()
    waiting = threading.Thread(target=held.wait_for_end)
    waiting.start()
    waiting.join(QUIET_S)
    assert waiting.is_alive()
    held.stop_taking()
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive()
