"""A new key, step by step: readers, writers, what waits and what is dead; then the old one goes."""

from __future__ import annotations

import queue
from itertools import pairwise
from typing import Any

import dramatiq
import pytest

from broker import StreamsBroker
from broker.errors import InvalidOption
from broker.resealing import Resealed, Resealer
from middleware.encryption import Encryption
from middleware.keyring import KeyRing
from tests.conftest import StartWorker
from tests.middleware.sealed import (
    KEY,
    OTHER_KEY,
    QUEUE,
    RING,
    SECRET,
    Build,
    encrypting,
    letter,
)
from tests.waiting import PATIENCE_S

READERS_FIRST = KeyRing([KEY, OTHER_KEY], active=KEY.id)
WRITERS_NEXT = KeyRing([KEY, OTHER_KEY], active=OTHER_KEY.id)
NEW_ONLY = KeyRing([OTHER_KEY], OTHER_KEY.id)


def resealer(broker: StreamsBroker) -> Resealer:
    return Resealer(broker.commands, broker.codec)


def walk(broker: StreamsBroker, limit: int = 1_000) -> tuple[int, int, int]:
    """All steps: how many were sealed anew, how many not opened, and how many steps it took."""
    steps: list[Resealed] = [resealer(broker).step(QUEUE, limit=limit)]
    while steps[-1].next is not None:
        steps.append(resealer(broker).step(QUEUE, steps[-1].next, limit=limit))
    return sum(s.resealed for s in steps), sum(s.not_opened for s in steps), len(steps)


def test_each_step_reads_what_the_one_before_wrote(
    build: Build, seen: queue.Queue[Any], start_worker: StartWorker
) -> None:
    rings = [RING, READERS_FIRST, WRITERS_NEXT, NEW_ONLY]
    for writers, readers in pairwise(rings):
        encrypting(build(Encryption(writers)), seen).send(SECRET)
        broker = build(Encryption(readers))
        encrypting(broker, seen)
        worker = start_worker(broker)
        assert seen.get(timeout=PATIENCE_S) == ((SECRET,), {})
        broker.join(QUEUE, timeout=int(PATIENCE_S * 1000))
        worker.stop()


def test_what_waits_and_what_is_dead_is_sealed_anew(
    build: Build, seen: queue.Queue[Any], start_worker: StartWorker
) -> None:
    before = build(Encryption(RING))
    note = encrypting(before, seen)

    @dramatiq.actor(broker=before, queue_name=QUEUE, encrypted=True, max_retries=0)
    def fail(secret: str) -> None:
        raise ValueError(secret)

    worker = start_worker(before)
    fail.send(SECRET)
    letter(before)
    worker.stop()
    note.send_with_options(args=(SECRET,), delay=1_500, broker_priority=4)

    assert walk(build(Encryption(WRITERS_NEXT))) == (2, 0, 2)
    assert walk(build(Encryption(WRITERS_NEXT))) == (0, 0, 2)

    broker = build(Encryption(NEW_ONLY))
    shown = broker.codec.revealed(letter(broker))
    assert shown.message is not None
    assert shown.message.args == (SECRET,)
    assert SECRET in shown.traceback
    encrypting(broker, seen)
    start_worker(broker)
    assert seen.get(timeout=PATIENCE_S) == ((SECRET,), {})


def test_a_walk_is_bounded_and_goes_on_where_it_stopped(
    build: Build, seen: queue.Queue[Any]
) -> None:
    before = build(Encryption(RING))
    note = encrypting(before, seen)
    count = 400  # more than a small sorted set's packed form, which is scanned at once
    before.enqueue_many([note.message(number) for number in range(count)], delay=60_000)
    broker = build(Encryption(WRITERS_NEXT))
    first = resealer(broker).step(QUEUE, limit=50)
    assert 0 < first.resealed < count
    resealed, not_opened, steps = walk(broker, limit=50)
    assert (first.resealed + resealed, not_opened) == (count, 0)
    assert steps > 3


def test_what_can_not_be_opened_or_is_in_clear_stays(build: Build, seen: queue.Queue[Any]) -> None:
    note = encrypting(build(Encryption(RING)), seen)
    note.send_with_options(args=(SECRET,), delay=60_000)
    plain = build(Encryption(RING))
    encrypting(plain, seen, encrypted=False).send_with_options(args=(1,), delay=60_000)
    kept = f"{{{plain.namespace}:{QUEUE}}}:scheduled:messages"
    values = plain.client.hgetall(kept)
    assert walk(build(Encryption(NEW_ONLY))) == (0, 1, 2)
    assert plain.client.hgetall(kept) == values


def test_a_message_that_changed_meanwhile_is_left_alone(
    build: Build, seen: queue.Queue[Any]
) -> None:
    broker = build(Encryption(RING))
    message = encrypting(broker, seen).send_with_options(args=(SECRET,), delay=60_000)
    id = message.message_id.encode()
    value = broker.commands.kept_value(QUEUE, "scheduled", id)
    assert value is not None
    assert not broker.commands.replace(QUEUE, "scheduled", id, value + b"x", b"other")
    assert broker.commands.kept_value(QUEUE, "scheduled", id) == value
    assert not broker.commands.replace(QUEUE, "scheduled", b"gone", value, b"other")
    assert broker.commands.kept_value(QUEUE, "scheduled", b"gone") is None


@pytest.mark.parametrize("after", ["", "ready:1", "dead", "dead:x", "scheduled:-1"])
def test_a_place_that_no_step_named_is_refused(build: Build, after: str) -> None:
    with pytest.raises(InvalidOption, match="`next` of a step"):
        resealer(build(Encryption(RING))).step(QUEUE, after)
