"""Deduplication: how long a key is held, and what a later message does to an earlier one."""

from __future__ import annotations

from typing import Any

import dramatiq
import pytest
import redis

from broker import InvalidOption, State, StreamsBroker
from broker.entry import encode
from broker.new_message import Claim, NewMessage
from tests.conftest import StartWorker
from tests.waiting import PATIENCE_S

PATIENCE_MS = int(PATIENCE_S * 1000)


@pytest.fixture
def act(broker: StreamsBroker) -> dramatiq.Actor[[], None]:
    @dramatiq.actor
    def act() -> None: ...

    return act


Act = dramatiq.Actor[[], None]


def lapse_in(client: redis.Redis, broker: StreamsBroker, key: str, ms: int) -> None:
    seconds, micros = client.time()
    at = seconds * 1_000 + micros // 1_000 + ms
    assert client.zadd(broker.commands.keys("default").lapsing, {key: at}, xx=True, ch=True)


def test_a_key_with_a_ttl_is_free_when_it_is_over_though_the_message_waits(
    broker: StreamsBroker, act: Act, client: redis.Redis
) -> None:
    options: dict[str, Any] = {"deduplication_key": "k", "deduplication_ttl": 60_000}
    first = act.send_with_options(**options)
    assert act.send_with_options(**options).message_id == first.message_id
    lapse_in(client, broker, "k", -1)
    second = act.send_with_options(**options)
    assert second.message_id != first.message_id
    assert act.send_with_options(**options).message_id == second.message_id


def test_until_finished_frees_the_key_before_the_ttl(
    broker: StreamsBroker, act: Act, start_worker: StartWorker
) -> None:
    options: dict[str, Any] = {"deduplication_key": "k", "deduplication_ttl": 60_000}
    first = act.send_with_options(**options)
    start_worker(broker)
    broker.jobs.wait(first, timeout=PATIENCE_MS)
    assert act.send_with_options(**options).message_id != first.message_id


def test_for_ttl_holds_the_key_though_the_message_has_ended(
    broker: StreamsBroker, act: Act, start_worker: StartWorker, client: redis.Redis
) -> None:
    options: dict[str, Any] = {
        "deduplication_key": "k",
        "deduplication_mode": "for_ttl",
        "deduplication_ttl": 60_000,
    }
    first = act.send_with_options(**options)
    start_worker(broker)
    broker.jobs.wait(first, timeout=PATIENCE_MS)
    assert act.send_with_options(**options).message_id == first.message_id
    lapse_in(client, broker, "k", -1)
    assert act.send_with_options(**options).message_id != first.message_id


def test_keys_whose_time_is_over_are_swept_away(
    broker: StreamsBroker, act: Act, start_worker: StartWorker, client: redis.Redis
) -> None:
    act.send_with_options(
        deduplication_key="k", deduplication_mode="for_ttl", deduplication_ttl=60_000
    )
    lapse_in(client, broker, "k", -1)
    keys = broker.commands.keys("default")
    assert broker.commands.lapse("default", 10) == 1
    assert not client.exists(keys.lapsing, keys.dedup)


def test_a_scheduled_message_is_replaced_by_the_later_one(broker: StreamsBroker, act: Act) -> None:
    options: dict[str, Any] = {"deduplication_key": "k", "deduplication_replace": True}
    first, second, third = (act.send_with_options(delay=60_000, **options) for _ in range(3))
    assert len({m.message_id for m in (first, second, third)}) == 3
    states = [record and record.state for record in broker.jobs.get_many([first, second, third])]
    assert states == [State.CANCELLED, State.CANCELLED, State.SCHEDULED]
    assert broker.inspector.queue("default").scheduled == 1


def test_a_replacement_without_a_delay_runs_at_once(
    broker: StreamsBroker, act: Act, start_worker: StartWorker
) -> None:
    options: dict[str, Any] = {"deduplication_key": "k", "deduplication_replace": True}
    first = act.send_with_options(delay=60_000, **options)
    second = act.send_with_options(**options)
    start_worker(broker)
    assert broker.jobs.wait(second, timeout=PATIENCE_MS).state is State.COMPLETED
    replaced = broker.jobs.get(first)
    assert replaced is not None
    assert replaced.state is State.CANCELLED


def test_a_message_that_runs_or_is_ready_is_not_replaced(broker: StreamsBroker, act: Act) -> None:
    options: dict[str, Any] = {"deduplication_key": "k", "deduplication_replace": True}
    first = act.send_with_options(deduplication_key="k")
    assert act.send_with_options(delay=60_000, **options).message_id == first.message_id


def test_a_repeated_replacement_does_not_displace_what_came_later(
    broker: StreamsBroker, act: Act
) -> None:
    def send(token: str, id: str) -> str:
        fields = encode(act.message())
        new = NewMessage(id, "act", 0, Claim("k", replaces=True), False, True, fields)
        (known,) = broker.commands.schedule("default", token, 60_000, [new])
        return known

    assert send("first", "a") == "a"
    assert send("second", "b") == "b"
    assert send("first", "a") == "a"  # its reply was lost, and the client repeats it
    found = broker.commands.jobs("default", ["a", "b"])
    assert [each and each.place for each in found] == ["ended", "scheduled"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"deduplication_mode": "for_ever"}, "deduplication_mode"),
        ({"deduplication_mode": "for_ttl"}, "deduplication_ttl"),
        ({"deduplication_ttl": 0}, "deduplication_ttl"),
        ({"deduplication_ttl": "1"}, "deduplication_ttl"),
        ({"deduplication_replace": 1}, "deduplication_replace"),
        ({"records": None}, "records"),
    ],
)
def test_a_wrong_option_is_refused_and_nothing_sent(
    broker: StreamsBroker, act: Act, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidOption, match=f"^{field}: "):
        act.send_with_options(deduplication_key="k", **options)
    assert broker.inspector.size("default") == 0
