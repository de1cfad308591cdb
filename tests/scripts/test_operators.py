"""inspect, pause, resume, limit, redrive, purge and sweep: what operators do."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from broker.commands import Redriven
from broker.entry import pack_array
from broker.errors import ServerOutOfMemory
from broker.limits import QueueLimit
from broker.outcome import Bury
from tests.conftest import NewServer
from tests.scripts.conftest import GROUP, QUEUE, Scripts, fields_of


def bury(scripts: Scripts, *names: str, key: str = "") -> None:
    for name in names:
        scripts.enqueue(scripts.new(name, key=key))
        (handed,) = scripts.take()
        scripts.settle(handed, Bury("failed", "", fields_of(name)), key=key)


def letter(name: str, level: int = 0, key: str = "") -> Redriven:
    return Redriven(name, name, level, key, fields_of(name))


# ---- inspect


def test_a_queue_nobody_used_counts_nothing_and_is_not_made(scripts: Scripts) -> None:
    info = scripts.commands.inspect(QUEUE)
    counts = (info.ready, info.scheduled, info.due, info.in_flight, info.dead, info.consumers)
    assert counts == (0,) * 6
    assert (info.oldest_age_ms, info.paused) == (None, False)
    assert scripts.snapshot() == {}


def test_every_state_is_counted_over_all_levels(scripts: Scripts) -> None:
    bury(scripts, "dead")
    scripts.enqueue(*(scripts.new(f"m{n}", n % 3) for n in range(6)))
    first, *_ = scripts.take(3, consumer="c1")
    scripts.take(1, consumer="c2")
    scripts.release(first, 1)
    scripts.schedule("later")
    scripts.client.zadd(scripts.keys.scheduled, {"due": 1})
    scripts.commands.pause(QUEUE)
    info = scripts.commands.inspect(QUEUE)
    assert (info.ready, info.in_flight, info.scheduled, info.due) == (3, 3, 2, 1)
    assert (info.dead, info.paused, info.consumers) == (1, True, 2)


def test_the_age_is_the_oldest_entrys(scripts: Scripts) -> None:
    now = scripts.now_ms()
    scripts.enqueue("young")
    scripts.client.xadd(scripts.keys.ready[2], {"id": "old"}, id=f"{now - 90_000}-0")
    age_ms = scripts.commands.inspect(QUEUE).oldest_age_ms
    assert age_ms is not None
    assert 90_000 <= age_ms < 120_000


# ---- pause, resume, limit


def test_pausing_twice_and_resuming_twice_say_so(scripts: Scripts) -> None:
    assert [scripts.commands.pause(QUEUE) for _ in range(2)] == [True, False]
    assert scripts.client.hgetall(scripts.keys.control) == {b"paused": b"1"}
    assert [scripts.commands.resume(QUEUE) for _ in range(2)] == [True, False]
    assert scripts.client.exists(scripts.keys.control) == 0


@pytest.mark.parametrize("change", ["pause", "resume", "limit"])
def test_a_change_wakes_every_consumer(scripts: Scripts, change: str) -> None:
    scripts.fetch()
    for n in range(100):
        scripts.client.xgroup_createconsumer(scripts.keys.wake, GROUP, f"c{n}")
    changes: dict[str, Any] = {
        "pause": lambda: scripts.commands.pause(QUEUE),
        "resume": lambda: scripts.commands.resume(QUEUE),
        "limit": lambda: scripts.commands.limit(QUEUE, QueueLimit(1)),
    }
    changes[change]()
    assert scripts.signals() == 101


def test_limits_are_set_and_lifted_beside_a_pause(scripts: Scripts) -> None:
    scripts.commands.pause(QUEUE)
    scripts.commands.limit(QUEUE, QueueLimit(2, 5, 250))
    assert scripts.client.hgetall(scripts.keys.control) == {
        b"paused": b"1",
        b"global_concurrency": b"2",
        b"rate": b"5",
        b"rate_period": b"250",
    }
    scripts.commands.limit(QUEUE, QueueLimit())
    assert scripts.client.hgetall(scripts.keys.control) == {b"paused": b"1"}


def test_a_limit_that_is_set_already_keeps_its_bucket_and_wakes_nobody(scripts: Scripts) -> None:
    scripts.enqueue("a", "b", "c")
    limit = QueueLimit(rate=2, per_ms=60_000)
    assert scripts.commands.limit(QUEUE, limit)
    scripts.take()
    before = scripts.snapshot()
    assert not scripts.commands.limit(QUEUE, limit)
    assert scripts.snapshot() == before
    assert scripts.commands.limit(QUEUE, QueueLimit(rate=3, per_ms=60_000))
    assert scripts.commands.limit(QUEUE, QueueLimit())
    assert not scripts.commands.limit(QUEUE, QueueLimit())


def test_events_are_trimmed_to_about_as_many_a_bounded_number_a_call(scripts: Scripts) -> None:
    for n in range(500):
        scripts.client.xadd(scripts.keys.events, {"n": n})
    assert 0 < scripts.commands.trim_events(QUEUE, 100, 200) <= 200
    while scripts.commands.trim_events(QUEUE, 100, 200):
        pass
    assert 100 <= scripts.client.xlen(scripts.keys.events) < 300


# ---- redrive


def test_a_redriven_letter_is_ready_again_and_live(scripts: Scripts) -> None:
    bury(scripts, "m")
    assert scripts.commands.redrive(QUEUE, [letter("m", 1)]) == 1
    assert scripts.ids(1) == ["m"]
    assert scripts.client.exists(scripts.keys.dead, scripts.keys.dead_messages) == 0
    assert scripts.record("m") == {b"token": b"redrive"}
    assert scripts.client.ttl(scripts.keys.job_prefix + "m") == -1


def test_a_second_redrive_moves_nothing(scripts: Scripts) -> None:
    bury(scripts, "m")
    scripts.commands.redrive(QUEUE, [letter("m")])
    before = scripts.snapshot()
    assert scripts.commands.redrive(QUEUE, [letter("m"), letter("never there")]) == 0
    assert scripts.snapshot() == before


def test_a_redriven_letter_takes_its_deduplication_key_unless_it_is_held(
    scripts: Scripts,
) -> None:
    bury(scripts, "free", key="free")
    bury(scripts, "held", key="held")
    scripts.enqueue(scripts.new("younger", key="held"))
    scripts.commands.redrive(QUEUE, [letter("free", key="free"), letter("held", key="held")])
    assert scripts.dedup() == {b"free": b"free", b"held": b"younger"}
    assert scripts.record("free") == {b"token": b"redrive", b"dedup": b"free"}
    assert scripts.record("held") == {b"token": b"redrive"}


def test_a_letter_that_is_no_message_leaves_no_record(scripts: Scripts) -> None:
    scripts.client.zadd(scripts.keys.dead, {"0:7-7": 1})
    assert scripts.commands.redrive(QUEUE, [Redriven("0:7-7", "", 0, "", [b"x", b"\xff"])]) == 1
    assert scripts.entries() == [{b"x": b"\xff"}]
    assert [key for key in scripts.snapshot() if key.startswith("job:")] == []


def test_redriving_into_a_gated_queue_wakes_consumers(scripts: Scripts) -> None:
    bury(scripts, "a", "b")
    scripts.client.hset(scripts.keys.control, "rate", "1")
    scripts.commands.redrive(QUEUE, [letter("a"), letter("b")])
    assert scripts.signals() == 2


def test_a_letter_for_a_level_that_is_gone_goes_to_the_highest(scripts: Scripts) -> None:
    bury(scripts, "m")
    assert scripts.commands.redrive(QUEUE, [letter("m", 9)]) == 1
    assert scripts.ids(2) == ["m"]


def test_a_redrive_to_no_stream_is_refused_and_nothing_written(scripts: Scripts) -> None:
    bury(scripts, "m")
    k = scripts.keys
    keys = (k.dead, k.dead_messages, k.control, k.wake, k.dedup, k.job_prefix, *k.ready)
    before = scripts.snapshot()
    good = pack_array(("m", "m", 0, "", fields_of("m")))
    bad = pack_array(("n", "n", 3, "", fields_of("n")))
    with pytest.raises(redis.ResponseError, match="BADARG level 3"):
        scripts.run("redrive", keys, good, bad)
    assert scripts.snapshot() == before


def test_a_full_server_refuses_a_redrive_and_keeps_the_letter(
    own_server: NewServer, namespace: str
) -> None:
    with redis.Redis.from_url(own_server().url) as client:
        scripts = Scripts(client, namespace)
        bury(scripts, "m")
        before = scripts.snapshot()
        client.config_set("maxmemory", "1")
        with pytest.raises(ServerOutOfMemory):
            scripts.commands.redrive(QUEUE, [letter("m")])
        assert scripts.snapshot() == before


# ---- purge, sweep


def test_a_purge_drops_everything_but_the_dead_letters(scripts: Scripts) -> None:
    bury(scripts, "dead")
    before = scripts.snapshot()
    scripts.enqueue(*(scripts.new(f"m{n}", n % 3, key=f"k{n}") for n in range(6)))
    scripts.take(2)
    scripts.schedule(scripts.new("later", key="later"))
    dropped = [scripts.commands.purge(QUEUE, 100) for _ in range(2)]
    assert dropped == [7, 0]
    left = scripts.snapshot()
    assert {key for key in left if not key.startswith(("ready", "wake"))} == {
        "dead",
        "dead:messages",
        "job:dead",
    }
    assert all(left[key] == before[key] for key in ("dead", "dead:messages", "job:dead"))
    assert all(left[f"ready:{level}"] == ([], []) for level in range(3))


def test_a_purge_takes_a_bounded_part_of_each_place(scripts: Scripts) -> None:
    scripts.enqueue(*(scripts.new(f"m{n}", n % 2) for n in range(10)))
    scripts.schedule(*(f"s{n}" for n in range(5)))
    calls = []
    while dropped := scripts.commands.purge(QUEUE, 2):
        calls.append(dropped)
    assert calls == [6, 6, 3]


def test_a_purge_drops_entries_of_other_languages_and_queues_without_a_group(
    scripts: Scripts,
) -> None:
    scripts.client.xadd(scripts.keys.ready[0], {"no": "id"})
    assert scripts.commands.purge(QUEUE, 10) == 1
    assert scripts.client.xlen(scripts.keys.ready[0]) == 0


def test_a_sweep_drops_the_oldest_letters_that_are_past_their_age(scripts: Scripts) -> None:
    bury(scripts, "old", "older", "oldest", "young")
    now = scripts.now_ms()
    scripts.client.zadd(
        scripts.keys.dead, {"old": now - 1_001, "older": now - 2_000, "oldest": now - 3_000}
    )
    assert scripts.commands.sweep(QUEUE, 1_000, 2) == 2
    assert scripts.client.zrange(scripts.keys.dead, 0, -1) == [b"old", b"young"]
    assert scripts.commands.sweep(QUEUE, 1_000, 2) == 1
    assert set(scripts.client.hkeys(scripts.keys.dead_messages)) == {b"young"}
    assert scripts.commands.sweep(QUEUE, 60_000, 2) == 0
