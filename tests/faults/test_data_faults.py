"""Rows 44, 45, 48 and 50: entries nobody can decode or run (yet), and values that JSON mangles."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from broker import MessageTooLarge, StreamsBroker
from broker.packing import unpack
from tests.applications import Effects
from tests.faults.conftest import Source, valkey_only
from tests.faults.history import History
from tests.processes import Launcher
from tests.waiting import eventually

GARBAGE: dict[str, dict[Any, Any]] = {
    "no field of ours": {b"\xff\x00": b"\x00\xfe"},
    "no actor": {b"id": b"1", b"at": b"0", b"args": b"[]"},
    "args are no JSON": {b"id": b"2", b"actor": b"short", b"at": b"0", b"args": b"{["},
    "args are an object": {b"id": b"3", b"actor": b"short", b"at": b"0", b"args": b"{}"},
    "args are no UTF-8": {b"id": b"4", b"actor": b"short", b"at": b"0", b"args": b'["\xff"]'},
    "time is no number": {b"id": b"5", b"actor": b"short", b"at": b"soon", b"args": b"[]"},
    "options are a list": {
        b"id": b"6",
        b"actor": b"short",
        b"at": b"0",
        b"args": b"[]",
        b"options": b"[1]",
    },
    "id is no UTF-8": {b"id": b"\xff\xfe", b"actor": b"short", b"at": b"0", b"args": b"[]"},
    "a pickle": {b"id": b"8", b"message": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00."},
}

SHORT = """
@dramatiq.actor(queue_name="work")
def short(label):
    note("started", label)
    note("done", label)
"""


DEPLOYED = """

@dramatiq.actor(queue_name="work")
def to_be_deployed(label):
    note("started", label)
    note("done", label)
"""


def test_44_what_cannot_be_decoded_is_buried_with_its_bytes_and_the_consumer_goes_on(
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    producer: StreamsBroker,
    namespace: str,
) -> None:
    ready = f"{{{namespace}:work}}:ready:0"
    history.injure(len(GARBAGE))
    for fields in GARBAGE.values():
        producer.client.xadd(ready, fields)
    history.send("short", "behind the garbage")
    worker = launch(source(SHORT), threads=1)
    effects.next("done", label="behind the garbage")
    history.recovered()
    letters = eventually(
        lambda: producer.inspector.dead("work"),
        lambda found: len(found) == len(GARBAGE),
        what="the burials",
    )
    assert {letter.reason for letter in letters} == {"undecodable"}
    assert all(letter.message is None for letter in letters)
    assert all(letter.error for letter in letters)
    kept = [letter.fields for letter in letters]
    for name, fields in GARBAGE.items():
        wanted = {_text(key): value for key, value in fields.items()}
        assert any(wanted.items() <= _by_text(found).items() for found in kept), name
    assert "Restarting consumer" not in worker.log
    assert not worker.ended
    history.settle_down()
    history.check(failures=0)


LIMIT = 100_000

FAILING = """
@dramatiq.actor(queue_name="work", max_retries=1, min_backoff=1, max_backoff=1)
def fail(value):
    raise RuntimeError(value)
"""


@valkey_only
def test_48_what_is_over_the_limit_is_refused_at_the_producer_and_buried_unread_by_the_worker(
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    producer: StreamsBroker,
    namespace: str,
) -> None:
    ready = f"{{{namespace}:work}}:ready:0"
    history.injure()
    producer.max_message_bytes = LIMIT
    with pytest.raises(MessageTooLarge):
        history.send("short", "x" * LIMIT)
    large = {"id": "large", "actor": "short", "at": "0", "args": f'["{"x" * 3 * LIMIT}"'}
    producer.client.xadd(ready, large)  # type: ignore[arg-type]  # invariant dict
    at_the_limit = history.send("fail", "x" * (LIMIT - 500))
    history.send("short", "behind")
    launch(source(SHORT + FAILING, max_message_bytes=LIMIT), threads=1)
    effects.next("done", label="behind")
    history.recovered()
    letters = eventually(
        lambda: {letter.id: letter for letter in producer.inspector.dead("work")},
        lambda found: len(found) == 2,
        what="the burials",
    )
    refused, failed = letters["large"], letters[at_the_limit]
    assert refused.reason == "undecodable"
    assert re.search(rf"entry of 3\d{{5}} bytes, the most is {LIMIT + 131_072}", refused.error)
    assert refused.fields["args"].decode() == large["args"], "it was never parsed: it is no JSON"
    assert failed.reason == "retries_exhausted"
    assert len(failed.attempts) == 2, "its retry may be larger than what was sent"
    history.settle_down()
    history.check(failures=0)


def _text(key: bytes | str) -> str:
    return key.decode("utf-8", "surrogateescape") if isinstance(key, bytes) else key


def _by_text(fields: dict[str, bytes]) -> dict[str, bytes]:
    # A name that is no UTF-8 may come back in whatever spelling; the value tells.
    found = {_text(key): value for key, value in fields.items()}
    if b"\x00\xfe" in found.values():
        found[_text(b"\xff\x00")] = b"\x00\xfe"
    return found


@pytest.mark.parametrize("delay", [None, 10], ids=["ready", "delayed"])
def test_45_an_unknown_actor_is_tried_for_a_while_then_buried_and_redriven_after_the_deploy(
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    producer: StreamsBroker,
    delay: int | None,
) -> None:
    old = launch(source(SHORT, unknown_actor_grace=600), threads=1)
    old.wait_until_ready()
    history.injure()
    sent = history.send("to_be_deployed", "value", delay=delay)
    history.send("short", "behind")
    effects.next("done", label="behind")
    (letter,) = eventually(
        lambda: producer.inspector.dead("work"), lambda found: len(found) == 1, what="the burial"
    )
    assert letter.reason == "unknown_actor"
    assert letter.actor == "to_be_deployed"
    assert "to_be_deployed" in letter.error
    assert letter.message is not None
    assert letter.message.message_id == sent
    old.terminate()
    launch(source(SHORT + DEPLOYED), threads=1)
    assert producer.inspector.redrive("work") == 1
    effects.next("done", label="value")
    history.recovered()
    history.settle_down()
    history.check(failures=0, redriven=[sent])


@valkey_only
def test_45_an_unknown_actor_that_is_deployed_in_time_is_executed(
    launch: Launcher, source: Source, history: History, effects: Effects
) -> None:
    old = launch(source(SHORT, unknown_actor_grace=60_000), threads=1)
    old.wait_until_ready()
    history.injure()
    history.send("to_be_deployed", "value")
    history.send("short", "behind")
    effects.next("done", label="behind")
    old.terminate()
    launch(source(SHORT + DEPLOYED, unknown_actor_grace=60_000), threads=1)
    effects.next("done", label="value")
    history.recovered()
    history.settle_down()
    assert history.places().dead == []
    history.check(failures=0)


EXTREMES: dict[str, Any] = {
    "integers": [2**53 + 1, -(2**63), 2**64 - 1, 10**40],
    "no numbers": [float("nan"), float("inf"), float("-inf"), -0.0, 5e-324],
    "empty": [[], {}, [[]], [{}], "", None, False, 0],
    "emoji": ["\N{GRINNING FACE}\N{HEAVY BLACK HEART}\ufe0f", {"\N{SNOWMAN}": "\u202e"}],
    "NUL": ["\x00", "a\x00b", "\x00" * 1000],
    "lone surrogate": ["\ud800"],
}

ECHO = """
import json


@dramatiq.actor(queue_name="work", max_retries=1, min_backoff=50, max_backoff=50)
def echo(name, value):
    note("started")
    if first_time("to be retried " + name):
        raise RuntimeError("on purpose")
    note("seen", json.dumps([name, value]))
    if first_time("to be buried " + name):
        raise RuntimeError("on purpose")
    note("done")
"""


def test_50_values_come_through_schedule_retry_burial_and_redrive_as_they_were(
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    producer: StreamsBroker,
) -> None:
    prefix = f"{{{producer.namespace}:work}}"
    sent = {history.send("echo", *item, delay=60_000): item for item in EXTREMES.items()}
    history.injure()
    scheduled: Any = producer.client.hgetall(f"{prefix}:scheduled:messages")
    args = {key.decode(): _args(unpack(value)) for key, value in scheduled.items()}
    for message_id, item in sent.items():
        assert json.dumps(json.loads(args[message_id])) == json.dumps(item)
        # Its time comes.
        producer.client.zadd(f"{prefix}:scheduled", {message_id: 1})
    worker = launch(source(ECHO), threads=1)
    letters = eventually(
        lambda: producer.inspector.dead("work"),
        lambda found: len(found) == len(sent),
        what="the burials",
    )
    assert {letter.id: letter.fields["args"] for letter in letters} == args
    assert worker.terminate() == 0
    assert producer.inspector.redrive("work") == len(sent)
    entries: Any = producer.client.xrange(f"{prefix}:ready:0")
    assert {fields[b"id"].decode(): fields[b"args"] for _, fields in entries} == args
    launch(source(ECHO), threads=1)
    history.settle_down()
    history.recovered()
    seen = [effect.label for effect in effects.catch_up() if effect.event == "seen"]
    assert sorted(seen) == sorted(json.dumps(item) for item in sent.values() for _ in range(2))
    assert history.finished() == set(sent)
    history.check(failures=0, expected_runs=3, redriven=sent)


def _args(flat: list[bytes]) -> bytes:
    return dict(zip(flat[::2], flat[1::2], strict=True))[b"args"]
