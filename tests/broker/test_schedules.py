"""Schedules at run time: added, listed, paused, resumed, run now, removed."""

from __future__ import annotations

from typing import Any

import dramatiq
import pytest

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from broker.errors import InvalidOption, UnknownSchedule
from broker.schedule import Schedule
from broker.schedules import Schedules
from tests.conftest import NewBroker
from tests.contract.brokers import client_of

QUEUE = "reports"


@pytest.fixture
def broker(server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    made = new_broker("streams", server.url)
    assert isinstance(made, StreamsBroker)

    @dramatiq.actor(queue_name=QUEUE, broker=made)
    def write(day: str) -> None: ...

    @dramatiq.actor(queue_name="mail", broker=made)
    def send() -> None: ...

    return made


@pytest.fixture
def schedules(broker: StreamsBroker) -> Schedules:
    return broker.inspector.schedules


def test_an_added_schedule_is_kept_for_everybody(
    schedules: Schedules, server: EmbeddedValkey, namespace: str
) -> None:
    added = schedules.add(
        "report:friday",
        "write",
        "0 17 * * fri",
        timezone="Europe/Berlin",
        overlap="skip",
        args=["friday"],
        broker_priority=2,
    )
    other = StreamsBroker(url=server.url, namespace=namespace)
    (info,) = other.inspector.schedules.list()
    other.close()
    assert info.schedule == added
    assert (info.declared, info.paused, info.outcome, info.last_fire_ms) == (
        *(False, False),
        *(None, None),
    )
    assert info.next_fire_ms is not None
    assert info.next_fire_ms == added.times.next_ms(info.next_fire_ms - 1)
    message = added.fire(0)
    assert (message.args, message.options["broker_priority"]) == (("friday",), 2)


def test_adding_again_replaces(schedules: Schedules) -> None:
    schedules.add("daily", "write", "@daily", args=["x"])
    schedules.add("daily", "write", "@hourly", args=["x"])
    assert [info.schedule.cron for info in schedules.list()] == ["@hourly"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"actor": "nobody"}, "actor"),
        ({"cron": "0 0 30 2 *"}, "cron"),
        ({"timezone": "Berlin"}, "timezone"),
        ({"misfire": "perhaps"}, "misfire"),
        ({"misfire_limit": 0}, "misfire_limit"),
        ({"overlap": "queue"}, "overlap"),
        ({"broker_priority": 99}, "broker_priority"),
        ({"deduplication_key": 7}, "deduplication_key"),
    ],
)
def test_what_breaks_a_rule_is_named_and_not_added(
    schedules: Schedules, changes: dict[str, Any], field: str
) -> None:
    arguments = {"name": "daily", "actor": "write", "cron": "@daily", "args": ["x"], **changes}
    with pytest.raises(InvalidOption) as caught:
        schedules.add(**arguments)
    assert caught.value.field == field
    assert schedules.list() == []


def test_code_stands_above_what_is_added(schedules: Schedules) -> None:
    declared = Schedule(name="daily", queue=QUEUE, actor="write", cron="@daily")
    schedules.put(declared, declared=True)
    with pytest.raises(InvalidOption, match="the code declares"):
        schedules.add("daily", "write", "@hourly", args=["x"])
    assert schedules.get("daily").schedule == declared


def test_a_name_stands_for_one_schedule_of_all_queues(schedules: Schedules) -> None:
    schedules.add("daily", "write", "@daily", args=["x"])
    with pytest.raises(InvalidOption, match="'reports'"):
        schedules.add("daily", "send", "@daily")


@pytest.mark.parametrize("before", ["a-queue", "z-queue"])
def test_what_is_done_to_a_schedule_whose_actor_has_moved_is_done_in_both_queues(
    schedules: Schedules, before: str
) -> None:
    for queue in (before, QUEUE):
        declared = Schedule(name="daily", queue=queue, actor="write", cron="@daily", args=("x",))
        schedules.put(declared, declared=True)

    def paused() -> list[bool]:
        return [info.paused for info in schedules.list()]

    assert schedules.pause("daily")
    assert paused() == [True, True]
    assert not schedules.pause("daily")
    assert schedules.resume("daily")
    assert paused() == [False, False]
    assert schedules.get("daily").schedule.queue == QUEUE
    assert schedules.run_now("daily").queue_name == QUEUE
    schedules.remove("daily")
    assert schedules.list() == []


def test_a_pause_ends_without_making_up_for_what_it_left_out(
    schedules: Schedules, broker: StreamsBroker
) -> None:
    schedules.add("minutely", "write", "* * * * *", misfire="all", args=["x"])
    assert schedules.pause("minutely")
    assert not schedules.pause("minutely")
    assert schedules.get("minutely").paused
    state = broker.commands.keys(QUEUE).schedules_state
    client_of(broker).hincrby(state, "mark:minutely", -600_000)
    now_ms, _ = broker.schedule_commands.look(QUEUE)
    assert (schedules.get("minutely").next_fire_ms or 0) > now_ms
    assert schedules.resume("minutely")
    assert not schedules.resume("minutely")
    _, (kept,) = broker.schedule_commands.look(QUEUE)
    assert kept.mark_ms >= now_ms


def test_a_closed_queues_schedules_are_not_overdue_and_go_on_when_it_opens(
    schedules: Schedules, broker: StreamsBroker
) -> None:
    schedules.add("yearly", "write", "@yearly", args=["x"])
    state = broker.commands.keys(QUEUE).schedules_state
    client_of(broker).hincrby(state, "mark:yearly", -2 * 366 * 86_400_000)
    broker.inspector.close(QUEUE)
    now_ms, _ = broker.schedule_commands.look(QUEUE)
    info = schedules.get("yearly")
    assert (info.closed, info.paused) == (True, False)
    assert (info.next_fire_ms or 0) > now_ms
    broker.inspector.open(QUEUE)
    info = schedules.get("yearly")
    assert not info.closed
    assert (info.next_fire_ms or now_ms) < now_ms


def test_run_now_enqueues_beside_the_fires(schedules: Schedules, broker: StreamsBroker) -> None:
    schedules.add("yearly", "write", "@yearly", args=["today"])
    schedules.pause("yearly")
    first, second = schedules.run_now("yearly"), schedules.run_now("yearly")
    assert first.message_id != second.message_id
    assert first.args == ("today",)
    assert broker.inspector.queue(QUEUE).ready == 2


def test_a_removed_schedule_leaves_nothing(schedules: Schedules, broker: StreamsBroker) -> None:
    schedules.add("daily", "write", "@daily", args=["x"])
    schedules.pause("daily")
    schedules.remove("daily")
    assert schedules.list() == []
    k = broker.commands.keys(QUEUE)
    assert client_of(broker).exists(k.schedules, k.schedules_state) == 0


@pytest.mark.parametrize("action", ["get", "remove", "pause", "resume", "run_now"])
def test_a_name_that_nobody_has_is_named(schedules: Schedules, action: str) -> None:
    with pytest.raises(UnknownSchedule) as caught:
        getattr(schedules, action)("nightly")
    assert caught.value.value == "nightly"
