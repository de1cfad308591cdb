"""Why a job died and what is kept of it, told by real workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker, Message, MessageProxy
from dramatiq.middleware import Middleware, SkipMessage

from broker import StreamsBroker
from broker.dead_letter import DeadLetter
from broker.embedded import EmbeddedValkey
from broker.errors import Refused
from tests.conftest import NewBroker, StartWorker
from tests.waiting import eventually

QUEUE = "work"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
RETRIED = {"min_backoff": 1, "max_backoff": 1}


@pytest.fixture
def streams(valkey_server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    made = new_broker("streams", valkey_server.url, unknown_actor_grace=0)
    assert isinstance(made, StreamsBroker)
    return made


Died = Callable[..., DeadLetter]


@pytest.fixture
def died(streams: StreamsBroker, start_worker: StartWorker) -> Died:
    """Run what is queued until there is a dead letter: this one."""

    def run() -> DeadLetter:
        start_worker(streams, threads=1)
        (letter,) = eventually(
            lambda: streams.inspector.dead(QUEUE), lambda found: len(found) == 1, what="the burial"
        )
        return letter

    return run


class Stopping(Middleware):
    """Does with every message what the test wants, before it runs."""

    def __init__(self, stop: Callable[[MessageProxy], None]) -> None:
        self._stop = stop

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        self._stop(message)


def declare(body: Callable[..., None], **options: Any) -> dramatiq.Actor[..., None]:
    return dramatiq.actor(queue_name=QUEUE, actor_name="job", **options)(body)


def fail() -> None:
    raise LookupError("no such user")


def succeed() -> None:
    pass


def test_a_job_out_of_retries_tells_of_every_attempt(streams: StreamsBroker, died: Died) -> None:
    sent = declare(fail, max_retries=2, **RETRIED).send_with_options(
        correlation_id="order-7", traceparent=TRACEPARENT, deduplication_key="k", broker_priority=2
    )
    letter = died()
    assert (letter.reason, letter.error_type) == ("retries_exhausted", "LookupError")
    assert letter.error == "LookupError: no such user"
    assert letter.traceback.startswith("Traceback")
    assert 'raise LookupError("no such user")' in letter.traceback
    assert [(a.error_type, a.error) for a in letter.attempts] == [
        ("LookupError", "LookupError: no such user")
    ] * 3
    assert {a.worker for a in letter.attempts} == {streams.consumer_name}
    ends = [a.ended_at_ms for a in letter.attempts]
    assert ends == sorted(ends)
    assert sent.message_timestamp <= ends[0] <= ends[-1] <= letter.died_at_ms + 1_000
    assert (letter.correlation_id, letter.trace_id) == ("order-7", TRACEPARENT.split("-")[1])
    assert (letter.deduplication_key, letter.level, letter.deliveries) == ("k", 2, 1)


def test_an_expected_exception_is_a_rejection(streams: StreamsBroker, died: Died) -> None:
    declare(fail, throws=(LookupError,)).send()
    letter = died()
    assert (letter.reason, letter.error_type) == ("rejected", "LookupError")
    assert 'raise LookupError("no such user")' in letter.traceback
    assert len(letter.attempts) == 1


def test_a_message_past_its_age_has_expired(streams: StreamsBroker, died: Died) -> None:
    old = declare(succeed, max_age=1_000).message().copy()
    streams.enqueue(
        Message(QUEUE, "job", (), {}, {}, message_timestamp=old.message_timestamp - 5_000)
    )
    letter = died()
    assert (letter.reason, letter.attempts, letter.traceback) == ("expired", [], "")


def test_what_a_middleware_fails_is_rejected(streams: StreamsBroker, died: Died) -> None:
    streams.add_middleware(Stopping(lambda message: message.fail()))
    declare(succeed).send()
    letter = died()
    assert (letter.reason, letter.error_type, letter.attempts) == ("rejected", "", [])


def test_what_a_middleware_fails_and_skips_is_rejected(streams: StreamsBroker, died: Died) -> None:
    def stop(message: MessageProxy) -> None:
        message.fail()
        raise SkipMessage("not today")

    streams.add_middleware(Stopping(stop))
    declare(succeed).send()
    letter = died()
    assert (letter.reason, letter.error) == ("rejected", "SkipMessage: not today")


def test_a_refusal_names_its_reason(streams: StreamsBroker, died: Died) -> None:
    def stop(message: MessageProxy) -> None:
        raise Refused("unauthenticated", "no seal")

    streams.add_middleware(Stopping(stop))
    declare(succeed).send()
    letter = died()
    assert (letter.reason, letter.error) == ("unauthenticated", "Refused: no seal")
    assert letter.attempts == []


def test_a_job_for_nobody_keeps_what_it_was_called(streams: StreamsBroker, died: Died) -> None:
    streams.declare_queue(QUEUE)
    streams.enqueue(Message(QUEUE, "nobody", (), {}, {}))
    letter = died()
    assert (letter.reason, letter.actor) == ("unknown_actor", "nobody")
    assert letter.error_type == "ActorNotFound"


def test_the_evidence_is_bounded(streams: StreamsBroker, died: Died) -> None:
    def shout() -> None:
        raise ValueError("x" * 1_000_000)

    declare(shout, max_retries=30, **RETRIED).send()
    letter = died()
    assert len(letter.attempts) == 20
    assert sum(len(a.error) for a in letter.attempts) <= 20 * 200
    assert len(letter.error) <= 2_000
    assert len(letter.traceback) <= 8_000
    assert letter.message is not None
    assert len(letter.message.options["traceback"]) <= 8_000


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_exception_that_cannot_be_told_is_buried_all_the_same(
    streams: StreamsBroker, died: Died
) -> None:
    def fall_silent() -> None:
        raise Unspeakable

    declare(fall_silent, throws=(Unspeakable,)).send()
    assert died().error == "Unspeakable: <RuntimeError in its __str__>"


def test_text_that_is_no_unicode_is_kept_as_far_as_it_goes(
    streams: StreamsBroker, died: Died
) -> None:
    def garble() -> None:
        raise ValueError("\ud800!")

    declare(garble, max_retries=1, **RETRIED).send()
    assert died().error == "ValueError: ?!"


def test_a_redriven_job_starts_without_attempts(
    streams: StreamsBroker, died: Died, start_worker: StartWorker
) -> None:
    declare(fail, max_retries=1, **RETRIED).send()
    letter = died()
    streams.inspector.redrive(QUEUE)
    (again,) = eventually(
        lambda: streams.inspector.dead(QUEUE),
        lambda found: bool(found) and found[0].died_at_ms > letter.died_at_ms,
        what="the second burial",
    )
    assert len(again.attempts) == 2
    assert again.attempts[0].ended_at_ms > letter.attempts[-1].ended_at_ms
