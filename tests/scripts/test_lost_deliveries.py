"""Who held a delivery that ended unsettled is kept with what becomes of the message."""

from __future__ import annotations

import msgspec

from broker import evidence
from broker.commands import BEGINNING
from broker.outcome import Bury, Retry
from tests.scripts.conftest import QUEUE, Scripts, fields_of


def lost_by(scripts: Scripts, name: str) -> list[str]:
    found, _ = scripts.letter(name)
    return [attempt.worker for attempt in evidence.lost(found[b"lost"])]


def reclaim(scripts: Scripts, most: int = 10) -> None:
    scripts.commands.reclaim(QUEUE, 1_000, most, 100, BEGINNING)


def test_a_burial_tells_who_lost_the_message_before(scripts: Scripts) -> None:
    scripts.enqueue("m", "healthy")
    before = scripts.now_ms()
    for name in ("first", "second"):
        handed, *_ = scripts.take(1, consumer=name)
        scripts.age(handed)
        reclaim(scripts)
    (handed,) = scripts.take(1, consumer="third")
    scripts.settle(handed, Bury("rejected"))
    assert lost_by(scripts, "m") == ["first", "second"]
    found, _ = scripts.letter("m")
    times = [attempt.ended_at_ms for attempt in evidence.lost(found[b"lost"])]
    assert before <= times[0] <= times[1] <= scripts.now_ms()


def test_a_retry_forgets_no_lost_delivery(scripts: Scripts) -> None:
    scripts.enqueue("m")
    (handed,) = scripts.take(consumer="first")
    scripts.age(handed)
    reclaim(scripts)
    (handed,) = scripts.take()
    scripts.settle(handed, Retry(0, 0, fields_of("m")))
    (handed,) = scripts.take()
    scripts.settle(handed, Bury("rejected"))
    assert lost_by(scripts, "m") == ["first"]


def test_a_vanished_consumer_is_noted(scripts: Scripts) -> None:
    scripts.enqueue("m")
    scripts.take(consumer="gone")
    scripts.commands.reclaim_consumer(QUEUE, 0, "gone", 1, 10)
    assert lost_by(scripts, "m") == ["gone"]


def test_waiting_for_long_after_a_loss_is_no_second_one(scripts: Scripts) -> None:
    scripts.enqueue("m")
    (handed,) = scripts.take(consumer="first")
    scripts.age(handed)
    reclaim(scripts)
    lease = msgspec.structs.replace(handed.lease, consumer="~released")
    scripts.age(msgspec.structs.replace(handed, lease=lease))
    reclaim(scripts, most=1)
    assert lost_by(scripts, "m") == ["first"]


def test_the_note_of_a_message_that_is_lost_for_ever_stays_short(scripts: Scripts) -> None:
    scripts.enqueue("m")
    for turn in range(100):
        (handed,) = scripts.take(1, consumer=f"{'worker' * 9}-{turn}", suspects=1)
        scripts.age(handed)
        reclaim(scripts, most=1_000)
    note = scripts.record("m")[b"lost"]
    assert len(note) <= 2_000
    assert evidence.lost(note)[-1].worker.endswith("-99")


def test_a_message_of_another_language_has_a_note_as_well(scripts: Scripts) -> None:
    scripts.client.xadd(scripts.keys.ready[0], {"id": "m", "actor": "record"})
    scripts.take(consumer="gone")
    scripts.commands.reclaim_consumer(QUEUE, 0, "gone", 1, 10)
    assert lost_by(scripts, "m") == ["gone"]
