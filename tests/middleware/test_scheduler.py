"""Fires: each one once, however many schedulers there are, and none dropped in silence."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import dramatiq
import pytest
from dramatiq import Message
from periodiq import CronSpec, PeriodiqMiddleware
from periodiq import cron as stock_cron

from broker import StreamsBroker
from broker.new_message import NewMessage
from broker.schedule import Fired, Misfire, Overlap, Schedule
from broker.schedule_commands import Kept
from middleware.periodic import InvalidPeriodic, cron
from middleware.scheduler import Scheduler
from tests.conftest import StartWorker
from tests.waiting import eventually

QUEUE = "reports"
MINUTE_MS = 60_000


def schedule(
    name: str = "report",
    times: str = "* * * * *",
    *,
    misfire: Misfire = "once",
    misfire_limit: int = 100,
    overlap: Overlap = "allow",
) -> Schedule:
    return Schedule(
        name=name,
        queue=QUEUE,
        actor="write",
        cron=times,
        misfire=misfire,
        misfire_limit=misfire_limit,
        overlap=overlap,
    )


@pytest.fixture
def new_scheduler(broker: StreamsBroker) -> Callable[..., Scheduler]:
    return lambda *declared: Scheduler(broker, declared)


def kept(broker: StreamsBroker, name: str = "report") -> Kept:
    return next(each for each in broker.schedule_commands.look(QUEUE)[1] if each.name == name)


def rewind(broker: StreamsBroker, minutes: int, name: str = "report") -> None:
    """As if no scheduler had run for so long."""
    state = broker.commands.keys(QUEUE).schedules_state
    broker.client.hincrby(state, f"mark:{name}", -minutes * MINUTE_MS)


def fire_times(broker: StreamsBroker) -> list[int]:
    """Of the messages that wait in the queue, in their order, as they are on the wire."""
    stream = broker.commands.keys(QUEUE).ready[0]
    rows: list[Any] = broker.client.xrange(stream)  # type: ignore[assignment]
    return [json.loads(fields[b"options"])["fire_time"] for _, fields in rows]


def minutes_apart(times: list[int]) -> list[int]:
    return [(later - sooner) // MINUTE_MS for sooner, later in pairwise(times)]


def test_the_present_minute_is_fired_when_a_schedule_is_new(
    broker: StreamsBroker, new_scheduler: Callable[..., Scheduler]
) -> None:
    new_scheduler(schedule()).tick()
    (at_ms,) = fire_times(broker)
    assert at_ms % MINUTE_MS == 0
    info = broker.inspector.schedules.get("report")
    assert info.last_message_id == schedule().fire(at_ms).message_id


def test_every_fire_is_made_once_by_many_schedulers(
    broker: StreamsBroker, new_scheduler: Callable[..., Scheduler]
) -> None:
    many = [new_scheduler(schedule(misfire="all")) for _ in range(8)]
    many[0].tick()
    rewind(broker, 20)
    with ThreadPoolExecutor(len(many)) as pool:
        list(pool.map(lambda each: each.tick(), many))
    fired = fire_times(broker)
    assert sorted(set(fired)) == sorted(fired)
    assert len(fired) >= 20


def test_a_frozen_scheduler_doubles_nothing_however_late_it_wakes_up(
    broker: StreamsBroker, new_scheduler: Callable[..., Scheduler]
) -> None:
    new_scheduler(schedule()).tick()
    rewind(broker, 1)
    frozen = kept(broker)  # it has read this, and sleeps
    new_scheduler(schedule()).tick()
    *_, at_ms = fire_times(broker)
    message = schedule().fire(at_ms)
    broker.flush(QUEUE)  # what was fired ran long ago, and no record says so any more

    def fire(token: str, new: NewMessage) -> Fired:
        return broker.schedule_commands.fire(QUEUE, frozen, at_ms, "allow", token, new)

    assert broker.producer.fire(message, fire) is Fired.AGAIN
    assert fire_times(broker) == []


def test_a_fire_whose_reply_was_lost_is_known_as_made(
    broker: StreamsBroker, new_scheduler: Callable[..., Scheduler]
) -> None:
    new_scheduler(schedule(times="0 0 1 1 *")).tick()
    known = kept(broker)
    at_ms = known.mark_ms + MINUTE_MS

    def fire_twice(token: str, new: NewMessage) -> Fired:
        made = [
            broker.schedule_commands.fire(QUEUE, known, at_ms, "allow", token, new)
            for _ in range(2)
        ]
        assert made == [Fired.FIRED] * 2
        return made[1]

    assert broker.producer.fire(schedule().fire(at_ms), fire_twice) is Fired.FIRED
    assert len(fire_times(broker)) == 1


def test_a_scheduler_with_the_definition_of_before_fires_nothing(
    broker: StreamsBroker, new_scheduler: Callable[..., Scheduler]
) -> None:
    new_scheduler(schedule()).tick()
    old = kept(broker)
    new_scheduler(schedule(times="0 3 * * *")).tick()
    at_ms = old.mark_ms + 10 * MINUTE_MS

    def fire(token: str, new: NewMessage) -> Fired:
        return broker.schedule_commands.fire(QUEUE, old, at_ms, "allow", token, new)

    assert broker.producer.fire(schedule().fire(at_ms), fire) is Fired.CHANGED


def test_times_of_another_expression_were_not_missed(
    broker: StreamsBroker, new_scheduler: Callable[..., Scheduler]
) -> None:
    new_scheduler(schedule(times="0 0 1 1 *")).tick()
    rewind(broker, 600)
    new_scheduler(schedule(times="* * * * *", misfire="all")).tick()
    assert len(fire_times(broker)) == 1


def test_a_scheduler_that_was_started_later_decides(
    broker: StreamsBroker, new_scheduler: Callable[..., Scheduler]
) -> None:
    old, new = new_scheduler(schedule(overlap="skip")), new_scheduler(schedule(overlap="allow"))
    old.tick()
    new.tick()
    old.tick()
    assert broker.inspector.schedules.get("report").schedule.overlap == "allow"


@pytest.mark.parametrize(("misfire", "expected"), [("skip", 0), ("once", 1), ("all", 3)])
def test_missed_fires_follow_the_policy(
    broker: StreamsBroker,
    new_scheduler: Callable[..., Scheduler],
    caplog: pytest.LogCaptureFixture,
    misfire: Misfire,
    expected: int,
) -> None:
    hourly = schedule(times=_hourly_but_not_now(broker), misfire=misfire)
    new_scheduler(hourly).tick()
    rewind(broker, 180)
    with caplog.at_level(logging.WARNING):
        new_scheduler(hourly).tick()
    fired = fire_times(broker)
    assert len(fired) == expected
    assert minutes_apart(fired) == [60] * (expected - 1)
    assert ("missed its fire" in caplog.text) == (expected < 3)
    assert (broker.inspector.schedules.get("report").missed > 0) == (expected < 3)
    new_scheduler(hourly).tick()
    assert len(fire_times(broker)) == expected


def _hourly_but_not_now(broker: StreamsBroker) -> str:
    now_ms, _ = broker.schedule_commands.look(QUEUE)
    return f"{(now_ms // MINUTE_MS + 30) % 60} * * * *"


def test_the_bound_keeps_the_latest_of_the_missed(
    broker: StreamsBroker, new_scheduler: Callable[..., Scheduler]
) -> None:
    minutely = schedule(misfire="all", misfire_limit=5)
    new_scheduler(minutely).tick()
    (first,) = fire_times(broker)
    broker.flush(QUEUE)
    rewind(broker, 100_000)
    new_scheduler(minutely).tick()
    fired = fire_times(broker)
    assert minutes_apart(fired) == [1] * (len(fired) - 1)
    assert fired[-1] >= first
    assert 6 <= len(fired) <= 7  # five, and what is only late


def test_a_late_fire_within_a_minute_is_none_that_was_missed(
    broker: StreamsBroker, new_scheduler: Callable[..., Scheduler]
) -> None:
    every_second = schedule(times="* * * * * *", misfire="skip")
    new_scheduler(every_second).tick()
    broker.flush(QUEUE)
    rewind(broker, 2)
    new_scheduler(every_second).tick()
    assert 60 <= len(fire_times(broker)) <= 61


def test_overlap_skip_leaves_fires_out_while_the_last_one_goes_on(
    broker: StreamsBroker,
    new_scheduler: Callable[..., Scheduler],
    start_worker: StartWorker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scheduler = new_scheduler(schedule(times=_hourly_but_not_now(broker), overlap="skip"))
    scheduler.tick()
    rewind(broker, 60)
    scheduler.tick()
    rewind(broker, 60)
    with caplog.at_level(logging.WARNING):
        scheduler.tick()
    assert len(fire_times(broker)) == 1
    assert "the last run goes on" in caplog.text
    info = broker.inspector.schedules.get("report")
    assert (info.outcome, info.skipped) == ("unfinished", 1)
    _run_all(broker, start_worker)
    rewind(broker, 60)
    scheduler.tick()
    assert len(fire_times(broker)) == 1


def test_overlap_queue_one_fires_one_when_the_last_one_has_ended(
    broker: StreamsBroker, new_scheduler: Callable[..., Scheduler], start_worker: StartWorker
) -> None:
    hourly = schedule(times=_hourly_but_not_now(broker), overlap="queue_one", misfire="all")
    one, other = (new_scheduler(hourly) for _ in range(2))
    one.tick()
    rewind(broker, 60)
    one.tick()
    (first,) = fire_times(broker)
    rewind(broker, 4 * 60)
    assert one.tick() <= 1_000  # it looks again soon
    other.tick()
    assert fire_times(broker) == [first]
    info = broker.inspector.schedules.get("report")
    assert info.waiting_fire_ms == first - 3 * 60 * MINUTE_MS
    assert info.skipped == 3
    _run_all(broker, start_worker)
    one.tick()
    other.tick()
    assert fire_times(broker) == [first - 3 * 60 * MINUTE_MS]
    assert broker.inspector.schedules.get("report").waiting_fire_ms is None


def _run_all(broker: StreamsBroker, start_worker: StartWorker) -> None:
    @dramatiq.actor(queue_name=QUEUE, broker=broker)
    def write() -> None: ...

    worker = start_worker(broker)
    broker.join(QUEUE, interval=20, timeout=10_000)
    worker.stop()
    del broker.actors["write"]


def test_a_fire_that_waited_in_the_queue_runs_with_periodiqs_middleware_too(
    broker: StreamsBroker, new_scheduler: Callable[..., Scheduler], start_worker: StartWorker
) -> None:
    broker.add_middleware(PeriodiqMiddleware(skip_delay=0))
    ran: list[dict[str, Any]] = []

    @dramatiq.actor(queue_name=QUEUE, broker=broker, periodic=cron("* * * * *"))
    def write() -> None:
        message = dramatiq.middleware.CurrentMessage.get_current_message()
        assert message is not None
        ran.append(message.options)

    new_scheduler(schedule()).tick()
    rewind(broker, 120)
    new_scheduler(schedule(misfire="all")).tick()
    waiting = len(fire_times(broker))
    start_worker(broker)
    eventually(lambda: len(ran), lambda count: count == waiting, what="fires of two hours ago")
    assert {options["schedule"] for options in ran} == {"report"}
    assert min(options["fire_time"] for options in ran) % MINUTE_MS == 0


def test_what_became_of_the_last_fire_is_known_after_its_record_has_gone(
    broker: StreamsBroker, new_scheduler: Callable[..., Scheduler], start_worker: StartWorker
) -> None:
    scheduler = new_scheduler(schedule(times="0 0 1 1 *"))
    scheduler.tick()
    rewind(broker, 600_000)
    scheduler.tick()
    _run_all(broker, start_worker)
    scheduler.tick()
    info = broker.inspector.schedules.get("report")
    assert info.last_message_id is not None
    broker.client.delete(broker.commands.keys(QUEUE).job_prefix + info.last_message_id)
    info = broker.inspector.schedules.get("report")
    assert info.outcome == "completed"
    assert info.last_fire_ms == info.schedule.times.latest(0, info.last_fire_ms or 0, 1)[0]


def test_schedules_that_were_lost_are_declared_again(
    broker: StreamsBroker, new_scheduler: Callable[..., Scheduler]
) -> None:
    scheduler = new_scheduler(schedule())
    scheduler.tick()
    k = broker.commands.keys(QUEUE)
    broker.client.delete(k.schedules, k.schedules_state)
    scheduler.tick()
    assert broker.inspector.schedules.get("report").declared


def test_what_other_code_declares_is_left_to_that(
    broker: StreamsBroker, new_scheduler: Callable[..., Scheduler]
) -> None:
    new_scheduler(schedule("mine")).tick()
    rewind(broker, 1, "mine")
    new_scheduler(schedule("theirs")).tick()
    assert len(fire_times(broker)) == 2


def test_what_was_removed_comes_back_with_the_code_that_declares_it_and_fires_nothing_twice(
    broker: StreamsBroker, new_scheduler: Callable[..., Scheduler]
) -> None:
    old, new = new_scheduler(schedule()), new_scheduler()
    old.tick()
    made = fire_times(broker)
    broker.inspector.schedules.remove("report")
    new.tick()
    assert broker.inspector.schedules.list() == []
    old.tick()
    assert broker.inspector.schedules.get("report").declared
    assert [at for at in fire_times(broker) if at <= made[-1]] == made


def test_a_definition_that_is_none_does_not_stop_the_others(
    broker: StreamsBroker, new_scheduler: Callable[..., Scheduler], caplog: pytest.LogCaptureFixture
) -> None:
    broker.client.hset(broker.commands.keys(QUEUE).schedules, "bad", b"{")
    new_scheduler(schedule()).tick()
    assert len(fire_times(broker)) == 1
    assert "'bad'" in caplog.text


def test_it_comes_again_in_time(
    broker: StreamsBroker, new_scheduler: Callable[..., Scheduler]
) -> None:
    assert 0 < new_scheduler(schedule(times="* * * * * *")).tick() <= 1_000
    assert new_scheduler(schedule("rare", times="0 0 1 1 *")).tick() <= 5_000


def test_specs_of_periodiqs_own_are_taken_over(broker: StreamsBroker) -> None:
    @dramatiq.actor(broker=broker, periodic=stock_cron("@weekly"))
    def weekly() -> None: ...

    assert str(weekly.options["periodic"]) == "@weekly"

    edited = stock_cron("0 6 * * *").replace(m=[15], dow=[1, 3])
    assert isinstance(edited, CronSpec)

    @dramatiq.actor(broker=broker, periodic=edited)
    def twice_a_week() -> None: ...

    assert str(twice_a_week.options["periodic"]) == "15 6 * * 1,3"


def test_what_is_no_spec_is_refused(broker: StreamsBroker) -> None:
    with pytest.raises(InvalidPeriodic, match="hourly"):

        @dramatiq.actor(broker=broker, periodic="hourly")
        def hourly() -> None: ...

    assert broker.actors == {}


def test_messages_have_one_id_whoever_makes_them() -> None:
    first: Message[Any] = schedule().fire(1_000)
    assert first.message_id == schedule(overlap="skip").fire(1_000).message_id
    assert first.message_id != schedule().fire(2_000).message_id
    assert first.message_id != schedule("other").fire(1_000).message_id
