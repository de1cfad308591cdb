"""Bodies that are forged, moved, replayed, pickled or for other keys: none of their jobs runs."""

from __future__ import annotations

import queue
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Message
from dramatiq.encoder import PickleEncoder
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from broker.embedded import EmbeddedValkey
from broker.errors import PickleRefused
from middleware.encryption import Encryption
from middleware.keyring import KeyRing
from tests.conftest import StartWorker
from tests.middleware.sealed import (
    OTHER_KEY,
    QUEUE,
    RING,
    SECRET,
    TIMEOUT_MS,
    Build,
    add,
    add_recorded,
    encrypting,
    entries,
    letter,
    ready,
    record,
)
from tests.waiting import PATIENCE_S, eventually


@pytest.mark.parametrize("keys", [None, KeyRing([OTHER_KEY], OTHER_KEY.id)], ids=["none", "other"])
def test_without_its_key_it_is_buried_as_it_is(
    build: Build,
    seen: queue.Queue[Any],
    start_worker: StartWorker,
    caplog: pytest.LogCaptureFixture,
    keys: KeyRing | None,
) -> None:
    sender = build(Encryption(RING))
    encrypting(sender, seen).send(SECRET)
    entry = entries(sender)[0]
    broker = build(None if keys is None else Encryption(keys))
    start_worker(broker)
    died = letter(broker)
    assert died.reason == "undecryptable"
    assert died.raw == entry
    assert seen.empty()
    assert SECRET not in caplog.text


@pytest.mark.parametrize("field", [b"id", b"at", b"actor", b"sealed", b"options"])
def test_a_changed_entry_is_buried_unauthenticated(
    build: Build,
    seen: queue.Queue[Any],
    start_worker: StartWorker,
    caplog: pytest.LogCaptureFixture,
    field: bytes,
) -> None:
    broker = build(Encryption(RING))
    encrypting(broker, seen).send(SECRET)
    fields = entries(broker)[0]
    broker.flush(QUEUE)
    changed = {
        b"id": b"another",
        b"at": b"1",
        b"actor": b"steal",
        b"sealed": fields[b"sealed"][:-1] + bytes((fields[b"sealed"][-1] ^ 1,)),
        b"options": b'{"on_success":"steal"}',
    }
    add_recorded(broker, {**fields, field: changed[field]})
    start_worker(broker)
    died = letter(broker)
    assert died.reason == "unauthenticated"
    assert seen.empty()
    assert SECRET not in caplog.text


def test_a_ciphertext_in_another_queue_is_buried_unauthenticated(
    build: Build, seen: queue.Queue[Any], start_worker: StartWorker
) -> None:
    broker = build(Encryption(RING))
    encrypting(broker, seen).send(SECRET)
    fields = entries(broker)[0]
    broker.flush(QUEUE)
    broker.declare_queue("other")
    add_recorded(broker, fields, "other")
    start_worker(broker)
    assert letter(broker, "other").reason == "unauthenticated"
    assert seen.empty()


def test_a_forgery_does_not_end_the_message_in_whose_name_it_comes(
    build: Build, seen: queue.Queue[Any], start_worker: StartWorker
) -> None:
    broker = build(Encryption(RING))
    note = encrypting(broker, seen)
    note.send(SECRET)
    fields = entries(broker)[0]
    add(broker, {**fields, b"at": b"1"})
    broker.client.xtrim(ready(broker), maxlen=1, approximate=False)  # leaves the forgery
    worker = start_worker(broker)
    assert letter(broker).reason == "unauthenticated"
    worker.stop()
    add(broker, fields)  # the genuine one again
    start_worker(broker)
    assert seen.get(timeout=PATIENCE_S) == ((SECRET,), {})


@pytest.mark.parametrize("said", [True, None], ids=["by its actor", "by default"])
def test_a_body_in_clear_is_refused_where_encryption_is_required(
    build: Build, seen: queue.Queue[Any], start_worker: StartWorker, said: bool | None
) -> None:
    broker = build(Encryption(RING, default=said is None, require=True))
    encrypting(broker, seen, encrypted=said)
    add_recorded(broker, {b"id": b"forged", b"actor": b"note", b"at": b"1", b"args": b"[1]"})
    start_worker(broker)
    assert letter(broker).reason == "unauthenticated"
    assert seen.empty()


def test_an_actor_that_is_not_encrypted_takes_clear_bodies_all_the_same(
    build: Build, seen: queue.Queue[Any], start_worker: StartWorker
) -> None:
    broker = build(Encryption(RING, default=True, require=True))
    encrypting(broker, seen, encrypted=False)
    add_recorded(broker, {b"id": b"plain", b"actor": b"note", b"at": b"1", b"args": b"[1]"})
    start_worker(broker)
    assert seen.get(timeout=PATIENCE_S) == ((1,), {})


def test_what_was_queued_before_encryption_runs_until_it_is_required(
    build: Build, seen: queue.Queue[Any], start_worker: StartWorker
) -> None:
    before = build(None)
    before.enqueue(Message(queue_name=QUEUE, actor_name="note", args=(1,), kwargs={}, options={}))
    broker = build(Encryption(RING))
    encrypting(broker, seen)
    start_worker(broker)
    assert seen.get(timeout=PATIENCE_S) == ((1,), {})


@pytest.mark.parametrize("forgotten", [False, True], ids=["just ended", "long ago"])
@pytest.mark.parametrize("waiting", [False, True], ids=["fetched", "blocked for"])
def test_an_old_ciphertext_is_not_run_again(
    build: Build,
    seen: queue.Queue[Any],
    start_worker: StartWorker,
    forgotten: bool,
    waiting: bool,
) -> None:
    broker = build(Encryption(RING))
    message = encrypting(broker, seen).send(SECRET)
    fields = entries(broker)[0]
    worker = start_worker(broker)
    assert seen.get(timeout=PATIENCE_S) == ((SECRET,), {})
    broker.join(QUEUE, timeout=TIMEOUT_MS)
    if forgotten:
        broker.client.delete(record(broker, message.message_id))
    if not waiting:
        worker.stop()
    add(broker, fields)
    if not waiting:
        start_worker(broker)
    assert letter(broker).reason == "replayed"
    assert seen.empty()
    if not forgotten:
        assert broker.client.hget(record(broker, message.message_id), "state") == b"completed"


def test_deliveries_go_back_when_the_server_can_not_tell_whether_they_are_replays(
    build: Build, seen: queue.Queue[Any], start_worker: StartWorker
) -> None:
    broker = build(Encryption(RING), heartbeat_timeout=600_000)
    note = encrypting(broker, seen)
    worker = start_worker(broker, queues={"none of ours"})  # boots, and leaves the queue alone
    consumer = broker.consume(QUEUE, prefetch=1, timeout=10)
    assert next(consumer) is None  # it begins the next time with a blocked read
    scheduled = f"{{{broker.namespace}:{QUEUE}}}:scheduled"
    broker.client.set(scheduled, "no sorted set")  # the fetch that follows fails on it
    note.send(SECRET)
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        next(consumer)
    broker.client.delete(scheduled)
    eventually(
        lambda: broker.inspector.queue(QUEUE).in_flight, lambda n: n == 0, what="the way back"
    )
    delivery = next(consumer)
    assert delivery is not None
    assert delivery.args == (SECRET,)
    worker.stop()


def test_one_record_that_can_not_be_read_holds_up_no_other_job(
    build: Build, seen: queue.Queue[Any], start_worker: StartWorker
) -> None:
    broker = build(Encryption(RING))
    note = encrypting(broker, seen)
    broker.client.set(record(broker, note.send("unreadable").message_id), "no hash")
    note.send(SECRET)
    start_worker(broker)
    assert seen.get(timeout=PATIENCE_S) == ((SECRET,), {})
    assert letter(broker).reason == "replayed"
    assert seen.empty()


def test_a_replay_under_the_name_of_a_live_message_as_well_is_not_run(
    build: Build, seen: queue.Queue[Any], start_worker: StartWorker
) -> None:
    broker = build(Encryption(RING))
    note = encrypting(broker, seen)
    old = note.send("old")
    fields = entries(broker)[0]
    broker.flush(QUEUE)
    live = note.send(SECRET).message_id
    assert live != old.message_id
    # The records are asked for the first id that an entry names; what is opened names the last.
    flat = [part for pair in fields.items() for part in pair]
    broker.client.execute_command("XADD", ready(broker), "*", "id", live, *flat)
    start_worker(broker)
    assert seen.get(timeout=PATIENCE_S) == ((SECRET,), {})
    assert letter(broker).reason == "unauthenticated"
    assert broker.client.hget(record(broker, live), "state") == b"completed"
    assert seen.empty()


def test_a_replay_runs_when_an_operator_redrives_it(
    build: Build, seen: queue.Queue[Any], start_worker: StartWorker
) -> None:
    broker = build(Encryption(RING))
    encrypting(broker, seen).send(SECRET)
    fields = entries(broker)[0]
    broker.flush(QUEUE)
    add(broker, fields)
    start_worker(broker)
    assert letter(broker).reason == "replayed"
    assert broker.inspector.redrive(QUEUE) == 1
    assert seen.get(timeout=PATIENCE_S) == ((SECRET,), {})


@pytest.fixture
def pickling() -> Any:
    before = dramatiq.get_encoder()
    dramatiq.set_encoder(PickleEncoder())
    yield
    dramatiq.set_encoder(before)


class Bomb:
    """Unpickled, it would call this module's `explode`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return explode, ()


exploded: list[int] = []


def explode() -> dict[str, Any]:
    exploded.append(1)
    return {}


def test_a_broker_with_pickle_refuses_to_be_built(build: Build, pickling: None) -> None:
    with pytest.raises(PickleRefused):
        build(None)


def test_a_worker_with_pickle_refuses_to_start(build: Build, start_worker: StartWorker) -> None:
    broker = build(None)
    before = dramatiq.get_encoder()
    dramatiq.set_encoder(PickleEncoder())
    try:
        with pytest.raises(PickleRefused, match="set_encoder"):
            start_worker(broker)
    finally:
        dramatiq.set_encoder(before)


def test_pickled_results_are_refused(
    build: Build, valkey_server: EmbeddedValkey, start_worker: StartWorker
) -> None:
    backend = RedisBackend(url=valkey_server.url, encoder=PickleEncoder())
    with pytest.raises(PickleRefused, match="Results"):
        start_worker(build(None, Results(backend=backend)))


@pytest.mark.parametrize("field", [b"message", b"args", b"sealed"])
def test_a_pickled_body_is_buried_and_nothing_of_it_runs(
    build: Build, seen: queue.Queue[Any], start_worker: StartWorker, field: bytes
) -> None:
    broker = build(Encryption(RING))
    encrypting(broker, seen)
    pickled = PickleEncoder().encode({"args": Bomb()})
    add_recorded(broker, {b"id": b"bomb", b"actor": b"note", b"at": b"1", field: pickled})
    start_worker(broker)
    assert letter(broker).reason in ("undecodable", "undecryptable")
    assert exploded == []
