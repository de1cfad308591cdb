"""The checker itself: it must see what it is there to see."""

from __future__ import annotations

from typing import Any

import pytest

from broker import StreamsBroker
from tests.applications import Effects
from tests.faults.conftest import Source
from tests.faults.history import Finalisations, History
from tests.faults.test_worker_faults import SHORT
from tests.processes import Launcher

READY = "{{{namespace}:work}}:ready:0"


def test_it_accepts_messages_that_wait(history: History) -> None:
    history.send("short", "ready")
    history.send("short", "scheduled", delay=60_000)
    now = history.places()
    assert (len(now.ready), len(now.scheduled), now.in_flight, now.dead) == (1, 1, [], [])
    history.check(failures=0)


def test_it_sees_a_lost_message(history: History, producer: StreamsBroker) -> None:
    history.send("short", "lost")
    producer.client.delete(READY.format(namespace=producer.namespace))
    with pytest.raises(AssertionError, match="nowhere"):
        history.check(failures=0)


def test_it_sees_a_message_in_two_places(history: History, producer: StreamsBroker) -> None:
    history.send("short", "copied")
    stream = READY.format(namespace=producer.namespace)
    entries: Any = producer.client.xrange(stream)
    producer.client.xadd(stream, entries[0][1])
    with pytest.raises(AssertionError, match="more than one place"):
        history.check(failures=0)


def test_it_sees_a_message_that_ran_too_often_and_one_that_was_finished_twice(
    launch: Launcher, source: Source, history: History, effects: Effects
) -> None:
    launch(source(SHORT), threads=1)
    message_id = history.send("short", "twice")
    effects.next("done")
    history.settle_down()
    history.check(failures=0)
    effects.all.append(next(e for e in effects.all if e.event == "started"))
    with pytest.raises(AssertionError, match="executed more than 1 times"):
        history.check(failures=0)
    assert isinstance(history.finalisations, Finalisations)
    (queue,) = {queue for queue, _ in history.finalisations.count}
    history.finalisations.count[queue, message_id] += 1
    with pytest.raises(AssertionError, match="finalised more than once"):
        history.check(failures=1)
