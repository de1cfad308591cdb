"""Encrypted jobs on a real server: what runs, and what of them shows where."""

from __future__ import annotations

import queue
import threading
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.encoder import Encoder, JSONEncoder
from dramatiq.middleware import Middleware

from broker.errors import InvalidOption
from broker.sealing import Place, SealingFailed
from middleware.encryption import Encryption
from tests.conftest import StartWorker
from tests.middleware.sealed import (
    QUEUE,
    RING,
    SECRET,
    Build,
    encrypting,
    entries,
    leaks,
    letter,
)
from tests.waiting import PATIENCE_S, eventually, wait_for


def test_a_sealed_job_gets_what_it_was_given(
    build: Build, seen: queue.Queue[Any], start_worker: StartWorker
) -> None:
    broker = build(Encryption(RING))
    note = encrypting(broker, seen)
    start_worker(broker)
    given: Any = ((SECRET, 2**70, [], "\x00é😀", float("inf")), {"named": {"deep": SECRET}})
    note.send(*given[0], **given[1])
    assert seen.get(timeout=PATIENCE_S) == given


def test_an_entry_shows_its_routing_and_nothing_else(build: Build, seen: queue.Queue[Any]) -> None:
    broker = build(Encryption(RING))
    encrypting(broker, seen).send_with_options(
        args=(SECRET,), kwargs={"named": SECRET}, note=SECRET, correlation_id="chain-1"
    )
    fields = entries(broker)[0]
    assert fields.keys() == {b"id", b"actor", b"at", b"sealed", b"options"}
    assert fields[b"options"] == b'{"correlation_id":"chain-1"}'
    assert SECRET.encode() not in repr(fields).encode()


@pytest.mark.parametrize(
    ("default", "said", "sealed"),
    [
        (False, None, False),
        (True, None, True),
        (False, True, True),
        (True, False, False),
    ],
)
def test_an_actor_overrides_the_default(
    build: Build, seen: queue.Queue[Any], default: bool, said: bool | None, sealed: bool
) -> None:
    broker = build(Encryption(RING, default=default))
    encrypting(broker, seen, encrypted=said).send(SECRET)
    assert (b"sealed" in entries(broker)[0]) is sealed


def test_a_message_may_ask_for_it(build: Build, seen: queue.Queue[Any]) -> None:
    broker = build(Encryption(RING))
    note = encrypting(broker, seen, encrypted=False)
    note.send_with_options(args=(SECRET,), encrypted=True)
    assert b"sealed" in entries(broker)[0]


def test_a_message_may_not_switch_it_off(build: Build, seen: queue.Queue[Any]) -> None:
    broker = build(Encryption(RING))
    with pytest.raises(InvalidOption, match="encrypted"):
        encrypting(broker, seen).send_with_options(args=(SECRET,), encrypted=False)
    assert broker.inspector.queue(QUEUE).ready == 0


def test_an_option_that_is_no_boolean_is_refused_at_the_declaration(
    build: Build, seen: queue.Queue[Any]
) -> None:
    with pytest.raises(InvalidOption, match="encrypted"):
        encrypting(build(Encryption(RING)), seen, encrypted="yes")


def test_without_the_middleware_nothing_that_asks_for_it_is_sent(build: Build) -> None:
    broker = build(None)

    @dramatiq.actor(broker=broker, queue_name=QUEUE)
    def plain(secret: str) -> None:
        pass

    with pytest.raises(SealingFailed):
        plain.send_with_options(args=(SECRET,), encrypted=True)
    assert broker.inspector.queue(QUEUE).ready == 0


def test_two_ways_to_encrypt_are_refused(build: Build) -> None:
    with pytest.raises(InvalidOption, match="middleware"):
        build(Encryption(RING), Encryption(RING))


def test_a_pipeline_is_sealed_from_the_step_on_that_carries_a_secret(
    build: Build, seen: queue.Queue[Any], start_worker: StartWorker, client: redis.Redis
) -> None:
    broker = build(Encryption(RING))
    note = encrypting(broker, seen)

    @dramatiq.actor(broker=broker, queue_name=QUEUE)
    def first() -> int:
        return 1

    (first.message() | note.message_with_options(args=(SECRET,))).run()
    assert b"sealed" in entries(broker)[0]
    start_worker(broker)
    assert seen.get(timeout=PATIENCE_S) == ((SECRET, 1), {})


def test_what_an_encrypted_job_sets_off_is_encrypted(
    build: Build, seen: queue.Queue[Any], start_worker: StartWorker
) -> None:
    broker = build(Encryption(RING))

    def declare(name: str, **options: Any) -> Any:
        @dramatiq.actor(broker=broker, queue_name="other", actor_name=name, **options)
        def actor(*args: Any) -> None:
            pass

        return actor

    sent_by_it, open_by_choice = declare("sent_by_it"), declare("open_by_choice", encrypted=False)
    declare("told")

    @dramatiq.actor(
        broker=broker, queue_name=QUEUE, encrypted=True, max_retries=0, on_success="told"
    )
    def job(secret: str) -> None:
        sent_by_it.send(secret)
        open_by_choice.send("nothing secret")

    worker = start_worker(broker, queues={QUEUE})
    job.send(SECRET)
    eventually(lambda: broker.inspector.queue("other").ready, lambda n: n == 3, what="three sends")
    worker.stop()
    sealed = {each[b"actor"]: b"sealed" in each for each in entries(broker, "other")}
    assert sealed == {b"sent_by_it": True, b"open_by_choice": False, b"told": True}
    declare("sent_outside").send(1)
    assert b"sealed" not in entries(broker, "other")[-1]


def test_an_own_encoder_is_kept_inside_the_seal(
    build: Build, seen: queue.Queue[Any], start_worker: StartWorker
) -> None:
    class Reversing(Encoder):
        def encode(self, data: dict[str, Any]) -> bytes:
            return JSONEncoder().encode(data)[::-1]

        def decode(self, data: bytes) -> dict[str, Any]:
            return JSONEncoder().decode(data[::-1])

    before = dramatiq.get_encoder()
    dramatiq.set_encoder(Reversing())
    try:
        broker = build(Encryption(RING))
        note = encrypting(broker, seen)
        start_worker(broker)
        note.send(SECRET, named=1)
        assert seen.get(timeout=PATIENCE_S) == ((SECRET,), {"named": 1})
    finally:
        dramatiq.set_encoder(before)


def test_retries_keep_it_sealed_and_redrive_runs_it_again(
    build: Build, seen: queue.Queue[Any], start_worker: StartWorker, client: redis.Redis
) -> None:
    broker = build(Encryption(RING))
    attempts: queue.Queue[int] = queue.Queue()

    @dramatiq.actor(broker=broker, queue_name=QUEUE, encrypted=True, max_retries=1, min_backoff=1)
    def fail(secret: str) -> None:
        attempts.put(1)
        raise ValueError(f"can't work with {secret}")

    start_worker(broker)
    fail.send(SECRET)
    died = letter(broker)
    assert attempts.qsize() == 2
    assert (died.sealed, died.message, died.actor) == (True, None, "fail")
    assert (died.error, died.traceback, died.attempts) == ("ValueError", "", [])
    shown = broker.codec.revealed(died)
    assert shown.message is not None
    assert shown.message.args == (SECRET,)
    assert SECRET in shown.error
    assert SECRET in shown.traceback
    assert [SECRET in attempt.error for attempt in shown.attempts] == [True, True]
    assert leaks(client, broker.namespace) == []

    assert broker.inspector.redrive(QUEUE) == 1
    eventually(attempts.qsize, lambda n: n == 4, what="two more attempts")
    again = broker.codec.revealed(letter(broker))
    assert again.message is not None
    assert again.message.options["redrives"] == 1
    assert len(again.attempts) == 2  # those before the redrive are forgotten


def test_what_can_not_be_sealed_is_neither_sent_nor_lost(
    build: Build, start_worker: StartWorker, client: redis.Redis
) -> None:
    class Breaking(Encryption):
        key_is_away = False
        refused = threading.Event()

        def seal(self, place: Place, body: bytes) -> bytes:
            if self.key_is_away:
                self.key_is_away = False
                self.refused.set()
                raise SealingFailed("the key is away")
            return super().seal(place, body)

    encryption = Breaking(RING)
    broker = build(encryption, heartbeat_timeout=400)
    runs: queue.Queue[int] = queue.Queue()

    @dramatiq.actor(broker=broker, queue_name=QUEUE, encrypted=True, max_retries=5, min_backoff=1)
    def fail(secret: str) -> None:
        encryption.key_is_away = runs.empty()  # when its first retry is prepared
        runs.put(1)
        raise ValueError(secret)

    fail.send(SECRET)
    worker = start_worker(broker)
    wait_for(encryption.refused, "the retry that could not be sealed")
    # Neither retried nor buried; its lease runs out, and it is delivered again.
    eventually(runs.qsize, lambda n: n > 1, what="the next delivery")
    worker.stop()
    encryption.key_is_away = True
    with pytest.raises(SealingFailed):
        broker.enqueue(fail.message(SECRET).copy(queue_name="other"))
    assert broker.inspector.queue("other").ready == 0
    assert leaks(client, broker.namespace) == []


def test_a_scheduled_job_is_sealed_while_it_waits(
    build: Build, seen: queue.Queue[Any], start_worker: StartWorker, client: redis.Redis
) -> None:
    broker = build(Encryption(RING))
    encrypting(broker, seen).send_with_options(args=(SECRET,), delay=300, broker_priority=3)
    assert broker.inspector.queue(QUEUE).scheduled == 1
    assert leaks(client, broker.namespace) == []
    start_worker(broker)
    assert seen.get(timeout=PATIENCE_S) == ((SECRET,), {})


def test_a_dead_letter_without_keys_stays_sealed_and_can_be_redriven(
    build: Build, seen: queue.Queue[Any], start_worker: StartWorker
) -> None:
    encrypting(build(Encryption(RING)), seen).send(SECRET)
    keyless = build(None)
    worker = start_worker(keyless, queues={QUEUE})
    died = letter(keyless)
    worker.stop()
    assert (died.reason, died.sealed, died.message) == ("undecryptable", True, None)
    assert keyless.inspector.redrive(QUEUE) == 1
    broker = build(Encryption(RING))
    encrypting(broker, seen)
    start_worker(broker)
    assert seen.get(timeout=PATIENCE_S) == ((SECRET,), {})


def test_nothing_is_said_of_the_job_but_its_exceptions_types(
    build: Build, start_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    class Clumsy(Middleware):
        def after_process_message(self, *args: Any, exception: Any = None, **kwargs: Any) -> None:
            if exception is not None:
                raise RuntimeError("of its own")

    broker = build(Encryption(RING), Clumsy())

    @dramatiq.actor(broker=broker, queue_name=QUEUE, encrypted=True, max_retries=0)
    def fail(secret: str) -> None:
        try:
            int(secret)
        except ValueError as error:
            raise KeyError(secret) from error

    start_worker(broker)
    fail.send(SECRET)
    letter(broker)
    assert SECRET not in caplog.text
    for shown in ("fail(sealed)", "KeyError", "ValueError", "RuntimeError", "in fail"):
        assert shown in caplog.text


def test_a_schedule_of_an_encrypted_job_keeps_no_arguments_in_redis(
    build: Build, seen: queue.Queue[Any], client: redis.Redis
) -> None:
    broker = build(Encryption(RING))
    encrypting(broker, seen)
    with pytest.raises(InvalidOption, match="args") as refusal:
        broker.inspector.schedules.add("hourly", "note", "0 * * * *", args=[SECRET])
    assert SECRET not in str(refusal.value)
    assert leaks(client, broker.namespace) == []
    broker.inspector.schedules.add("hourly", "note", "0 * * * *")
    broker.inspector.schedules.run_now("hourly")
    assert b"sealed" in entries(broker)[0]
