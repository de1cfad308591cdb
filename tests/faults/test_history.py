"""The checker itself: it must see what it is there to see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from broker import StreamsBroker
from tests.applications import Effects
from tests.faults.conftest import Source
from tests.faults.history import Finalisations, History
from tests.faults.leftovers import leftovers
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


LEFT: dict[str, tuple[Callable[[Any, str], object], str]] = {
    "a key of no kind": (lambda c, q: c.set(f"{q}:stray", 1), "is no key of a queue"),
    "a record": (lambda c, q: c.hset(f"{q}:job:gone", "token", "t"), "its job has ended"),
    "a limit": (lambda c, q: c.hset(f"{q}:limit:k", "tat", 1), "never expires"),
    "a deduplication key": (lambda c, q: c.hset(f"{q}:dedup", "k", "gone"), "which has ended"),
    "its time": (lambda c, q: c.zadd(f"{q}:dedup:lapsing", {"k": 1}), "is held by nobody"),
    "signals": (
        lambda c, q: [c.xadd(f"{q}:wake", {"s": ""}) for _ in range(1_001)],
        "is longer than",
    ),
    "deliveries": (
        lambda c, q: (
            c.xgroup_create(f"{q}:ready:0", "workers", 0),
            c.xreadgroup("workers", "c", {f"{q}:ready:0": ">"}, count=1),
            c.xdel(f"{q}:ready:0", c.xrange(f"{q}:ready:0")[0][0]),
        ),
        "1 deliveries of 0 entries",
    ),
}


@pytest.mark.parametrize("what", LEFT)
def test_it_sees_what_is_left_behind(history: History, producer: StreamsBroker, what: str) -> None:
    queue = f"{{{producer.namespace}:work}}"
    producer.client.xadd(f"{queue}:ready:0", {"id": "foreign", "actor": "a", "args": "[]"})
    assert leftovers(producer.client, producer.namespace) == []
    leave, told = LEFT[what]
    leave(producer.client, queue)
    (left,) = leftovers(producer.client, producer.namespace)
    assert told in left
    with pytest.raises(AssertionError, match="left behind"):
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
