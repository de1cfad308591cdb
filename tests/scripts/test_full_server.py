"""A server at maxmemory: what adds work is refused and writes nothing, all else goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker.commands import BEGINNING
from broker.errors import ServerOutOfMemory
from broker.letter_commands import Redriven
from broker.limits import QueueLimit
from broker.outcome import Bury, Done, Outcome, Release, Retry, Settled
from tests.scripts.conftest import GROUP, QUEUE, Scripts, fields_of


def test_what_adds_work_is_refused_and_nothing_written(own_scripts: Scripts) -> None:
    own_scripts.bury("dead")
    own_scripts.enqueue(own_scripts.new("m", key="k"), token="t")
    before = own_scripts.snapshot()
    own_scripts.fill_up()
    refused: list[Callable[[], object]] = [
        lambda: own_scripts.enqueue("new"),
        lambda: own_scripts.enqueue(own_scripts.new("m", key="k"), token="t"),
        lambda: own_scripts.schedule("new"),
        lambda: own_scripts.commands.redrive(
            QUEUE, [Redriven("dead", "dead", 0, "", fields_of("dead"))]
        ),
    ]
    for add in refused:
        with pytest.raises(ServerOutOfMemory):
            add()
    assert own_scripts.snapshot() == before


def test_deliveries_begin_and_end(own_scripts: Scripts) -> None:
    outcomes: list[Outcome] = [
        Done(),
        Bury("rejected", ""),
        Retry(0, 2, fields_of("m2")),
        Retry(60_000, 0, fields_of("m3")),
        Release(),
    ]
    own_scripts.enqueue(*(f"m{n}" for n in range(6)))
    own_scripts.schedule("due", delay_ms=0)
    own_scripts.fill_up()
    taken = own_scripts.take()
    assert len(taken) == 7
    assert own_scripts.renew(*taken) == []
    for one, outcome in zip(taken, outcomes, strict=False):
        assert own_scripts.settle(one, outcome) is Settled.OK
    assert own_scripts.ids(2) == ["m2"]
    assert own_scripts.ids() == ["m4", "m5", "due"]
    assert own_scripts.client.zrange(own_scripts.keys.scheduled, 0, -1) == [b"m3"]
    assert own_scripts.letters() == [b"m1"]


def test_what_the_dead_held_is_taken_back(own_scripts: Scripts) -> None:
    own_scripts.hold("killer", 5, consumer="expired")
    own_scripts.hold("innocent", 1, consumer="vanished")
    own_scripts.client.xgroup_createconsumer(own_scripts.keys.wake, GROUP, "gone")
    own_scripts.fill_up()
    commands = own_scripts.commands
    reclaimed = commands.reclaim(QUEUE, 0, 5, 1, BEGINNING)
    assert (reclaimed.released, reclaimed.ended) == (0, 1)
    assert commands.reclaim_consumer(QUEUE, 0, "vanished", 5, 10) == (1, 0)
    assert commands.reap(QUEUE, 0) > 0


def test_operators_can_act(own_scripts: Scripts) -> None:
    own_scripts.bury("dead")
    own_scripts.enqueue("m")
    own_scripts.fill_up()
    commands = own_scripts.commands
    assert commands.inspect(QUEUE).ready == 1
    assert commands.pause(QUEUE)
    assert commands.resume(QUEUE)
    assert commands.limit(QUEUE, QueueLimit(1))
    assert commands.purge(QUEUE, 10) == 1
    assert commands.sweep(QUEUE, 0, None, 10) == 1
