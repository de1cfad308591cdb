"""adopt.lua and drop_letter.lua: a dead letter moves from one queue's to another's."""

from __future__ import annotations

import hashlib

import pytest
import redis

from broker.outcome import Bury
from tests.scripts.conftest import QUEUE, Scripts

LONG_AGO = 1_000


def adopt(scripts: Scripts, id: str, letter: bytes, queue: str = "elsewhere") -> str:
    k = scripts.keys
    made = scripts.run("adopt", (k.dead, k.dead_messages), id, LONG_AGO, queue, letter)
    return str(made.decode())


def drop(scripts: Scripts, id: str, letter: bytes) -> int:
    k = scripts.keys
    digest = hashlib.sha1(letter, usedforsecurity=False).hexdigest()
    return int(scripts.run("drop_letter", (k.dead, k.dead_messages), id, digest))


@pytest.fixture
def letter(scripts: Scripts) -> bytes:
    """A letter as it lay elsewhere, with bytes that are no text."""
    scripts.enqueue(scripts.new("m", fields=["id", "m", "actor", "a", "sealed", b"\xff\x00"]))
    (handed,) = scripts.take()
    scripts.settle(handed, Bury("rejected", "why", "a"))
    k = scripts.keys
    found: bytes = scripts.client.hget(k.dead_messages, "m")
    scripts.client.delete(k.dead, k.dead_messages)
    return found


def test_an_adopted_letter_knows_where_it_belongs_and_when_it_died(
    scripts: Scripts, letter: bytes
) -> None:
    assert adopt(scripts, "m", letter) == "m"
    assert scripts.client.zscore(scripts.keys.dead, "m") == LONG_AGO
    evidence, fields = scripts.letter("m")
    assert evidence[b"queue"] == b"elsewhere"
    assert evidence[b"reason"] == b"rejected"
    assert fields == [b"id", b"m", b"actor", b"a", b"sealed", b"\xff\x00"]


def test_adopting_twice_is_adopting_once(scripts: Scripts, letter: bytes) -> None:
    adopt(scripts, "m", letter)
    before = scripts.snapshot()
    assert adopt(scripts, "m", letter) == "m"
    assert scripts.snapshot() == before


def test_letters_of_two_queues_under_one_id_keep_apart(scripts: Scripts, letter: bytes) -> None:
    assert adopt(scripts, "m", letter, "one") == "m"
    assert adopt(scripts, "m", letter, "two") == "m:1"
    assert adopt(scripts, "m", letter, "two") == "m:1"
    assert scripts.letters() == [b"m", b"m:1"]


def test_a_letter_that_comes_home_is_as_it_was(scripts: Scripts, letter: bytes) -> None:
    adopt(scripts, "m", letter)
    away: bytes = scripts.client.hget(scripts.keys.dead_messages, "m")
    scripts.client.delete(scripts.keys.dead_messages)
    adopt(scripts, "m", away, "")
    assert scripts.client.hget(scripts.keys.dead_messages, "m") == letter


@pytest.mark.parametrize("wrong", [b"", b"\xff", b"\x91\xa1x", b"\x07"])
def test_what_is_no_letter_is_refused(scripts: Scripts, wrong: bytes) -> None:
    with pytest.raises(redis.ResponseError, match="BADARG letter"):
        adopt(scripts, "m", wrong)
    assert scripts.snapshot() == {}


def test_a_dropped_letter_is_gone_once_and_another_one_stays(
    scripts: Scripts, letter: bytes
) -> None:
    adopt(scripts, "m", letter)
    assert drop(scripts, "m", letter) == 0
    here: bytes = scripts.client.hget(scripts.keys.dead_messages, "m")
    assert drop(scripts, "m", here) == 1
    assert drop(scripts, "m", here) == 0
    assert scripts.letters() == []


def test_a_burial_asks_for_the_move_in_its_own_step(scripts: Scripts) -> None:
    scripts.enqueue("m")
    (handed,) = scripts.take()
    scripts.settle(handed, Bury("rejected", dead_queue="graveyard"))
    ((_, asked),) = scripts.client.xrange(scripts.keys.outbox)
    assert asked == {b"kind": b"bury", b"to": b"graveyard", b"body": b"m"}
    assert scripts.letters() == [b"m"]
    assert QUEUE != "graveyard"
