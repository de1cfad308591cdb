"""Corners where a script once lost, doubled or blocked something."""

from __future__ import annotations

import pytest
import redis

from broker.entry import Fields
from broker.limits import QueueLimit
from broker.outcome import Bury, Done, Retry, Settled
from broker.packing import pack, pack_array
from broker.settlement import Settlement
from tests.scripts.conftest import QUEUE, Scripts, fields_of, message_id


@pytest.mark.parametrize(
    "fields", [[*fields_of("m"), "level", "0.5"], ["f", "v"] * 4_000], ids=["half", "many"]
)
def test_a_scheduled_value_that_cannot_be_added_blocks_nothing(
    scripts: Scripts, fields: Fields
) -> None:
    scripts.client.zadd(scripts.keys.scheduled, {"wrong": 1})
    scripts.client.hset(scripts.keys.scheduled_messages, "wrong", pack(fields))
    scripts.schedule("right", delay_ms=0)
    assert [message_id(handed) for handed in scripts.take()] == ["right"]
    assert scripts.letters() == [b"wrong"]


@pytest.mark.parametrize("how", ["corrupt", "missing"])
def test_what_cannot_be_promoted_frees_its_key(scripts: Scripts, how: str) -> None:
    scripts.schedule(scripts.new("m", key="k"), delay_ms=0)
    if how == "corrupt":
        scripts.client.hset(scripts.keys.scheduled_messages, "m", b"\xc1")
    else:
        scripts.client.hdel(scripts.keys.scheduled_messages, "m")
    scripts.take()
    assert scripts.dedup() == {}
    assert scripts.record("m").get(b"state", b"dead") == b"dead"
    assert scripts.client.ttl(scripts.keys.job_prefix + "m") != -1


def test_three_deaths_of_one_id_and_place_are_three_letters(scripts: Scripts) -> None:
    for level in range(3):
        scripts.client.xadd(scripts.keys.ready[level], {"id": "m"}, id="1-1")
    for handed in scripts.take():
        scripts.settle(handed, Bury("rejected", ""))
    assert len(scripts.letters()) == 3


def test_an_entry_with_an_empty_id_is_buried_under_its_place(scripts: Scripts) -> None:
    scripts.client.xadd(scripts.keys.ready[0], {"id": ""}, id="7-7")
    scripts.take(consumer="vanished")
    assert scripts.commands.reclaim_consumer(QUEUE, 0, "vanished", 1, 10) == (0, 1)
    assert scripts.letters() == [b"0:7-7"]
    assert "job:" not in scripts.snapshot()


def test_a_retry_to_no_stream_refuses_the_whole_batch(scripts: Scripts) -> None:
    scripts.enqueue("a", "b")
    a, b = scripts.take()
    before = scripts.snapshot()
    batch = [
        Settlement(a.lease, "a", "", Done()),
        Settlement(b.lease, "b", "", Retry(0, 7, fields_of("b"))),
    ]
    with pytest.raises(redis.ResponseError, match="BADARG"):
        scripts.commands.settle(QUEUE, batch)
    assert scripts.snapshot() == before


@pytest.mark.parametrize("wrong", ["delay", "message"])
def test_a_refused_schedule_writes_nothing(scripts: Scripts, wrong: str) -> None:
    k = scripts.keys
    keys = (
        *(k.scheduled, k.scheduled_messages, k.wake, k.dedup, k.lapsing),
        *(k.job_prefix, k.events, k.recent("cancelled"), k.control),
    )
    good = pack_array(("m", "", False, pack(fields_of("m"))))
    args = ("nan", 0, 0, good) if wrong == "delay" else (1_000, 0, 0, good, b"\xc1")
    with pytest.raises(redis.ResponseError):
        scripts.run("schedule", keys, "t", *args)
    assert scripts.snapshot() == {}


@pytest.mark.parametrize("fields", [["id", "b", "half"], ["f", "v"] * 4_000], ids=["odd", "many"])
def test_a_refused_enqueue_writes_nothing(scripts: Scripts, fields: Fields) -> None:
    with pytest.raises(redis.ResponseError):
        scripts.enqueue("a", scripts.new("b", fields=fields))
    assert scripts.snapshot() == {}


def test_another_concurrency_keeps_the_rates_bucket(scripts: Scripts) -> None:
    scripts.enqueue(*(f"m{n}" for n in range(10)))
    scripts.commands.limit(QUEUE, QueueLimit(None, 5, 3_600_000))
    scripts.take()
    scripts.commands.limit(QUEUE, QueueLimit(100, 5, 3_600_000))
    assert scripts.take() == []


def test_a_retry_repeated_for_another_languages_message_is_gone(scripts: Scripts) -> None:
    scripts.client.xadd(scripts.keys.ready[0], {"id": "m"})
    (handed,) = scripts.take()
    retry = Retry(60_000, 0, fields_of("m"))
    assert scripts.settle(handed, retry) is Settled.OK
    assert scripts.settle(handed, retry) is Settled.GONE


def test_many_suspects_hide_no_innocent_entry(scripts: Scripts) -> None:
    scripts.enqueue(*(f"s{n}" for n in range(70)), "innocent")
    *suspects, innocent = scripts.take(71)
    for handed in suspects:
        scripts.release(handed, 2)
    scripts.release(innocent, 1)
    assert [message_id(handed) for handed in scripts.take(1, suspects=0)] == ["innocent"]


@pytest.mark.parametrize("delay_ms", [0, 60_000])
def test_a_retry_of_an_entry_with_an_empty_id_leaves_no_record(
    scripts: Scripts, delay_ms: int
) -> None:
    scripts.client.xadd(scripts.keys.ready[0], {"id": ""})
    (handed,) = scripts.take()
    assert scripts.settle(handed, Retry(delay_ms, 0, ["id", ""])) is Settled.OK
    assert "job:" not in scripts.snapshot()
