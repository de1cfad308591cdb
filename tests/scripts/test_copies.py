"""One id more than once: a successor, a letter redriven after its message was sent again.

The record and the deduplication key live as long as the last of the copies.
"""

from __future__ import annotations

import pytest

from broker.letter_commands import Redriven
from broker.new_message import NewMessage
from broker.outcome import Bury, Done, Outcome, Retry, Settled
from broker.settlement import Settlement
from tests.scripts.conftest import QUEUE, Scripts, fields_of

MAX = 5
ENDS = [Done(), Bury("rejected", "")]


def expires(scripts: Scripts, message_id: str) -> bool:
    return int(scripts.client.pttl(scripts.keys.job_prefix + message_id)) > 0


def bury_by_killing_workers(scripts: Scripts, copies: int) -> None:
    for one in scripts.take(copies):
        scripts.release(one, MAX)
    scripts.take(copies, consumer="vanished", suspects=copies)
    assert scripts.commands.reclaim_consumer(QUEUE, 0, "vanished", MAX, 10) == (0, copies)


@pytest.mark.parametrize("end", ENDS, ids=str)
def test_the_first_end_leaves_record_and_key_to_the_successor(
    scripts: Scripts, end: Outcome
) -> None:
    scripts.enqueue(scripts.new("m", key="k"))
    (first,) = scripts.take()
    scripts.enqueue(scripts.new("m", key="k", successor=True))
    scripts.settle(first, end, key="k")
    assert b"state" not in scripts.record("m")
    assert not expires(scripts, "m")
    assert scripts.enqueue(scripts.new("other", key="k")) == ["m"]
    before = scripts.snapshot()
    assert scripts.enqueue("m") == ["m"], "it is there already"
    assert scripts.snapshot() == before
    scripts.settle(scripts.take()[0], Done(), key="k")
    assert scripts.record("m")[b"state"] == b"completed"
    assert expires(scripts, "m")
    assert scripts.dedup() == {}


@pytest.mark.parametrize("key", ["", "new"])
def test_a_successors_key_takes_the_place_of_the_former_one(scripts: Scripts, key: str) -> None:
    scripts.enqueue(scripts.new("m", key="old"))
    scripts.enqueue(scripts.new("m", key=key, successor=True))
    assert scripts.dedup() == ({b"new": b"m"} if key else {})
    assert scripts.record("m").get(b"dedup", b"").decode() == key
    bury_by_killing_workers(scripts, 2)
    assert scripts.dedup() == {}


def test_a_letter_redriven_beside_its_message_sent_again_keeps_no_key_for_ever(
    scripts: Scripts,
) -> None:
    scripts.bury("m", key="k")
    scripts.enqueue(scripts.new("m", key="k"))
    scripts.commands.redrive(QUEUE, [Redriven("m", "m", 0, "k", fields_of("m"))])
    assert scripts.ids() == ["m", "m"]
    assert scripts.dedup() == {b"k": b"m"}
    bury_by_killing_workers(scripts, 2)
    assert scripts.dedup() == {}
    assert scripts.enqueue(scripts.new("next", key="k")) == ["next"]


def test_the_end_of_a_redriven_copy_is_not_the_end_of_the_other(scripts: Scripts) -> None:
    scripts.bury("m")
    scripts.enqueue("m", token="again")
    scripts.commands.redrive(QUEUE, [Redriven("m", "m", 0, "", fields_of("m"))])
    first, second = scripts.take()
    scripts.settle(first, Done())
    assert scripts.record("m")[b"token"] == b"again"
    assert b"state" not in scripts.record("m")
    scripts.settle(second, Done())
    assert scripts.record("m")[b"state"] == b"completed"


def test_a_retry_in_place_of_a_scheduled_successor_is_one_copy(scripts: Scripts) -> None:
    scripts.enqueue("m")
    (first,) = scripts.take()
    scripts.schedule(scripts.new("m", successor=True))
    assert scripts.settle(first, Retry(1, 0, fields_of("m", n="2"))) is Settled.OK
    ends_with_one_copy(scripts)


def test_a_successor_in_place_of_a_scheduled_one_is_one_copy(scripts: Scripts) -> None:
    scripts.schedule("m")
    scripts.schedule(scripts.new("m", successor=True), delay_ms=0)
    ends_with_one_copy(scripts)


def ends_with_one_copy(scripts: Scripts) -> None:
    scripts.client.zadd(scripts.keys.scheduled, {"m": 1})  # its time has come
    (only,) = scripts.take()
    scripts.settle(only, Done())
    assert scripts.record("m")[b"state"] == b"completed"
    assert expires(scripts, "m")


def test_a_message_of_another_language_sent_again_is_live(scripts: Scripts) -> None:
    scripts.client.xadd(scripts.keys.ready[0], {"id": "m"})
    scripts.settle(scripts.take()[0], Done())
    message: NewMessage = scripts.new("m", key="k")
    assert scripts.enqueue(message, token="t") == ["m"]
    assert scripts.record("m") == {b"token": b"t", b"dedup": b"k"}
    assert not expires(scripts, "m")


@pytest.mark.parametrize("ends_first", [0, 1])
def test_a_copy_that_dies_after_its_message_has_ended_holds_no_key(
    scripts: Scripts, ends_first: int
) -> None:
    scripts.client.xadd(scripts.keys.ready[0], {"id": "m"})  # another language's: nobody counts it
    scripts.enqueue(scripts.new("m", key="k"))
    copies = scripts.take()
    scripts.settle(copies[ends_first], Done())
    assert scripts.dedup() == {}
    scripts.release(copies[1 - ends_first], MAX)
    scripts.take(consumer="vanished")
    assert scripts.commands.reclaim_consumer(QUEUE, 0, "vanished", MAX, 10) == (0, 1)
    evidence, _ = scripts.letter("m")
    assert evidence[b"dedup"] == b""


def test_the_record_tells_the_place_of_the_copy_that_was_handed_over_last(scripts: Scripts) -> None:
    scripts.enqueue(scripts.new("m", recorded=True))
    scripts.enqueue(scripts.new("m", recorded=True, successor=True))
    for _ in range(2):
        (handed,) = scripts.take(1)
        assert scripts.record("m")[b"entry"] == b"0:" + handed.lease.entry_id


def test_what_ends_after_the_record_was_purged_stays_on_record_with_every_copy(
    scripts: Scripts,
) -> None:
    scripts.enqueue(scripts.new("m", recorded=True))
    for _ in range(2):
        scripts.enqueue(scripts.new("m", recorded=True, successor=True))
    purged, *copies = scripts.take(3)
    assert scripts.commands.purge(QUEUE, 1) == 1
    ends = [Settlement(copy.lease, "m", "", Done(), ["actor", "record"]) for copy in copies]
    assert scripts.commands.settle(QUEUE, ends) == [Settled.OK] * 2
    assert scripts.settle(purged, Done()) is Settled.GONE
    assert scripts.client.pttl(scripts.keys.job_prefix + "m") > 60_000
