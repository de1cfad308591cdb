"""Rows 44 and 45: entries that can't be decoded, and actors that nobody knows (yet)."""

from __future__ import annotations

from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Message

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from tests.applications import Effects, application
from tests.conftest import NewBroker, StartWorker
from tests.contract.recording import Seen
from tests.processes import Launcher
from tests.waiting import PATIENCE_S, eventually

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


def test_44_what_cannot_be_decoded_is_buried_with_its_bytes_and_the_consumer_goes_on(
    launch: Launcher,
    server: EmbeddedValkey,
    client: redis.Redis,
    new_broker: NewBroker,
    namespace: str,
) -> None:
    producer = new_broker("streams", server.url)
    assert isinstance(producer, StreamsBroker)
    effects = Effects(server.url, namespace)
    ready = f"{{{namespace}:work}}:ready:0"
    producer.declare_queue("work")
    for fields in GARBAGE.values():
        client.xadd(ready, fields)
    producer.enqueue(message("short", "behind the garbage"))
    worker = launch(application("streams", server.url, namespace, SHORT), threads=1)
    effects.next("done", label="behind the garbage")
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
    effects.close()


def _text(key: bytes | str) -> str:
    return key.decode("utf-8", "surrogateescape") if isinstance(key, bytes) else key


def _by_text(fields: dict[str, bytes]) -> dict[str, bytes]:
    # A name that is no UTF-8 may come back in whatever spelling; the value tells.
    found = {_text(key): value for key, value in fields.items()}
    if b"\x00\xfe" in found.values():
        found[_text(b"\xff\x00")] = b"\x00\xfe"
    return found


def message(actor: str, *args: object) -> Message[None]:
    return Message(queue_name="work", actor_name=actor, args=args, kwargs={}, options={})


@pytest.mark.parametrize("delay", [None, 10], ids=["ready", "delayed"])
def test_45_an_unknown_actor_is_tried_for_a_while_then_buried_and_redriven_after_the_deploy(
    server: EmbeddedValkey,
    new_broker: NewBroker,
    start_worker: StartWorker,
    delay: int | None,
) -> None:
    streams = new_broker("streams", server.url, unknown_actor_grace=600)
    assert isinstance(streams, StreamsBroker)
    seen = Seen()

    @dramatiq.actor(queue_name="work")
    def known(value: str) -> None:
        seen.add(value)

    start_worker(streams, threads=1)
    sent = streams.enqueue(message("to_be_deployed", "value"), delay=delay)
    known.send("behind")
    assert seen.next() == "behind", "an unknown actor held the queue up"
    (letter,) = eventually(
        lambda: streams.inspector.dead("work"), lambda found: len(found) == 1, what="the burial"
    )
    assert letter.reason == "unknown_actor"
    assert letter.actor == "to_be_deployed"
    assert "to_be_deployed" in letter.error

    @dramatiq.actor(queue_name="work")
    def to_be_deployed(value: str) -> None:
        seen.add(value)

    assert streams.inspector.redrive("work") == 1
    assert seen.next() == "value"
    streams.join("work", timeout=int(PATIENCE_S * 1000))
    assert letter.message is not None
    assert letter.message.message_id == sent.message_id
    assert streams.inspector.queue("work").dead == 0


def test_45_an_unknown_actor_that_is_deployed_in_time_is_executed(
    server: EmbeddedValkey, new_broker: NewBroker, start_worker: StartWorker
) -> None:
    streams = new_broker("streams", server.url, unknown_actor_grace=60_000)
    assert isinstance(streams, StreamsBroker)
    seen = Seen()

    @dramatiq.actor(queue_name="work")
    def known(value: str) -> None:
        seen.add(value)

    worker = start_worker(streams, threads=1)
    streams.enqueue(message("to_be_deployed", "value"))
    known.send("behind")
    assert seen.next() == "behind"
    worker.stop()

    @dramatiq.actor(queue_name="work")
    def to_be_deployed(value: str) -> None:
        seen.add(value)

    start_worker(streams, threads=1)
    assert seen.next() == "value"
    assert streams.inspector.queue("work").dead == 0
