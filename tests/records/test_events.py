"""The event stream: what it tells, to whom, and what a subscriber that dies leaves behind."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from itertools import islice
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Message

from broker import Event, InvalidOption, StreamsBroker
from tests.conftest import StartWorker
from tests.waiting import PATIENCE_S

PATIENCE_MS = int(PATIENCE_S * 1000)


def names(events: Iterable[Event], message_id: str) -> list[str]:
    return [event.name for event in events if event.message_id == message_id]


def test_a_jobs_life_is_told_in_order(broker: StreamsBroker, start_worker: StartWorker) -> None:
    broken = threading.Event()
    broken.set()

    @dramatiq.actor(max_retries=1, min_backoff=1, max_backoff=1)
    def act() -> None:
        if broken.is_set():
            raise ValueError("on purpose")

    message = act.send_with_options(delay=1)
    start_worker(broker)
    broker.jobs.wait(message, timeout=PATIENCE_MS)
    broken.clear()
    broker.inspector.redrive("default")
    broker.jobs.wait(message, timeout=PATIENCE_MS)
    with broker.events.subscribe("default", group="audit", start="0") as subscription:
        events = list(islice(subscription, 10))
    assert names(events, message.message_id) == [
        *("scheduled", "started", "failed", "retrying"),
        *("started", "failed", "dead", "redriven", "started", "completed"),
    ]
    failed = events[2]
    assert (failed.actor, failed.error, failed.queue) == (
        "act",
        "ValueError: on purpose",
        "default",
    )
    assert events[6].reason
    assert [event.at_ms for event in events] == sorted(event.at_ms for event in events)


def test_cancelling_is_told(broker: StreamsBroker) -> None:
    @dramatiq.actor
    def act() -> None: ...

    message = act.send()
    broker.jobs.cancel(message)
    with broker.events.subscribe("default", group="audit", start="0") as subscription:
        assert names(islice(subscription, 2), message.message_id) == ["queued", "cancelled"]


def test_a_new_group_hears_what_happens_from_now_on(broker: StreamsBroker) -> None:
    @dramatiq.actor
    def act() -> None: ...

    act.send()
    with broker.events.subscribe("default", group="late") as subscription:
        second = act.send()
        (event,) = islice(subscription, 1)
    assert (event.name, event.message_id) == ("queued", second.message_id)


def test_each_group_hears_everything_and_its_members_share(broker: StreamsBroker) -> None:
    @dramatiq.actor
    def act() -> None: ...

    subscribe = broker.events.subscribe
    sent = [act.send().message_id for _ in range(4)]
    with subscribe("default", group="one", start="0") as one:
        assert [event.message_id for event in islice(one, 4)] == sent
    with subscribe("default", group="two", start="0") as two:
        assert [event.message_id for event in islice(two, 4)] == sent


def test_an_event_whose_subscriber_died_goes_to_another(
    broker: StreamsBroker, client: redis.Redis
) -> None:
    @dramatiq.actor
    def act() -> None: ...

    message = act.send()
    dead = iter(broker.events.subscribe("default", group="audit", start="0"))
    assert next(dead).message_id == message.message_id  # and nothing more: not acknowledged
    stream = broker.commands.keys("default").events
    (pending,) = client.xpending_range(stream, "audit", "-", "+", 10)
    entry: Any = pending["message_id"]
    owner: Any = pending["consumer"]
    client.xclaim(stream, "audit", owner, 0, [entry], idle=120_000, justid=True)
    with broker.events.subscribe("default", group="audit") as subscription:
        (event,) = islice(subscription, 1)
    assert event.message_id == message.message_id


def test_an_event_is_acknowledged_when_the_next_one_is_asked_for(
    broker: StreamsBroker, client: redis.Redis
) -> None:
    @dramatiq.actor
    def act() -> None: ...

    act.send()
    act.send()
    stream = broker.commands.keys("default").events
    events = iter(broker.events.subscribe("default", group="audit", start="0"))
    next(events)
    assert client.xpending(stream, "audit")["pending"] == 2
    next(events)
    assert client.xpending(stream, "audit")["pending"] == 1


def test_a_deleted_stream_is_read_on_from_its_new_beginning(
    broker: StreamsBroker, client: redis.Redis
) -> None:
    @dramatiq.actor
    def act() -> None: ...

    act.send()
    with broker.events.subscribe("default", group="audit") as subscription:
        client.delete(broker.commands.keys("default").events)
        message = act.send()
        (event,) = islice(subscription, 1)
    assert event.message_id == message.message_id


def test_the_stream_keeps_about_ten_thousand_events(
    broker: StreamsBroker, client: redis.Redis
) -> None:
    @dramatiq.actor
    def act() -> None: ...

    broker.enqueue_many(act.message() for _ in range(12_000))
    assert 10_000 <= client.xlen(broker.commands.keys("default").events) <= 10_200


def test_a_group_without_a_name_is_refused(broker: StreamsBroker) -> None:
    with pytest.raises(InvalidOption, match="group"):
        broker.events.subscribe("default", group="")


def test_the_beginning_of_a_job_that_ends_at_once_is_told_before_its_end(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    @dramatiq.actor
    def act() -> None: ...

    start_worker(broker, threads=1)
    sent = []
    for _ in range(20):  # an idle worker reads each directly; its next fetch may come too late
        message = act.send()
        broker.jobs.wait(message, timeout=PATIENCE_MS)
        sent.append(message.message_id)
    with broker.events.subscribe("default", group="audit", start="0") as subscription:
        told = list(islice(subscription, 3 * len(sent)))
    for id in sent:
        assert names(told, id) == ["queued", "started", "completed"]


def test_a_queue_that_is_first_used_while_all_are_followed_is_followed_too(
    broker: StreamsBroker,
) -> None:
    made: list[str] = []

    def names() -> list[str]:
        """The queues as they are; the first look is over when one of them begins."""
        found = broker.inspector.queues()
        if not made:
            made.append(broker.enqueue(Message("new", "act", (), {}, {})).message_id)
        return found

    (event,) = islice(broker.events.follow(names), 1)
    assert (event.queue, event.name, [event.message_id]) == ("new", "queued", made)


@pytest.mark.parametrize("start", ["", "$", "1-", "-1", "1-2-3", f"{2**64}-0", "1\n"])
def test_a_beginning_that_is_no_events_id_is_refused(broker: StreamsBroker, start: str) -> None:
    with pytest.raises(InvalidOption, match="start"):
        next(broker.events.follow(["default"], start=start))
