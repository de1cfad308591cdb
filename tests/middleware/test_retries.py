"""Attempts and waits of a queue, of an exception, and of what a job says itself."""

from __future__ import annotations

import time
from typing import Any

import dramatiq
import pytest
from dramatiq.errors import RateLimitExceeded
from dramatiq.middleware import TimeLimitExceeded, default_middleware

from broker import InvalidActorOption, StreamsBroker
from broker.dead_letter import DeadLetter
from broker.embedded import EmbeddedValkey
from broker.queue_settings import Jitter
from broker.settings import Settings
from middleware.retries import PolicyRetries, RetryPolicy
from middleware.stack import stack
from tests.conftest import NewBroker, StartWorker
from tests.contract.recording import Seen
from tests.waiting import eventually

QUEUE = "work"
QUICK = RetryPolicy(attempts=2, backoff="fixed", delay=1, jitter="none")


@pytest.fixture
def streams(valkey_server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    """A broker whose queue gives a job two attempts."""
    others = [kind() for kind in default_middleware if kind is not dramatiq.middleware.Retries]
    made = new_broker("streams", valkey_server.url, middleware=others)
    assert isinstance(made, StreamsBroker)
    made.add_middleware(PolicyRetries(lambda queue: QUICK))
    return made


@pytest.fixture
def seen() -> Seen:
    return Seen()


def declare(error: BaseException, seen: Seen, **options: Any) -> dramatiq.Actor[[], None]:
    @dramatiq.actor(queue_name=QUEUE, **options)
    def fail() -> None:
        seen.add(time.monotonic())
        raise error

    return fail


def the_letter(streams: StreamsBroker) -> DeadLetter:
    (letter,) = eventually(
        lambda: streams.inspector.dead(QUEUE), lambda found: len(found) == 1, what="the burial"
    )
    return letter


def wrapped(cause: BaseException) -> BaseException:
    error = RuntimeError("it failed")
    error.__cause__ = cause
    return error


def test_a_queues_attempts_hold_for_every_actor(
    streams: StreamsBroker, start_worker: StartWorker, seen: Seen
) -> None:
    declare(ValueError("no"), seen).send()
    start_worker(streams)
    letter = the_letter(streams)
    assert letter.reason == "retries_exhausted"
    assert len(letter.attempts) == 2


@pytest.mark.parametrize(
    ("options", "message_options", "attempts"),
    [
        ({"max_retries": 2}, {}, 3),
        ({"max_retries": 0}, {}, 1),
        ({"max_retries": 0}, {"max_retries": 1}, 2),
        ({"retry_policies": {ValueError: RetryPolicy(attempts=3, delay=1)}}, {}, 3),
        ({"retry_policies": {ValueError: RetryPolicy(attempts=3, delay=1)}}, {"max_retries": 9}, 3),
        ({"retry_policies": {ValueError: RetryPolicy(delay=1)}, "max_retries": 3}, {}, 4),
        ({"retry_policies": {KeyError: RetryPolicy(attempts=9)}}, {}, 2),
        ({"retry_when": lambda retries, error: retries < 3}, {}, 4),
    ],
)
def test_who_says_how_often(
    streams: StreamsBroker,
    start_worker: StartWorker,
    seen: Seen,
    options: dict[str, Any],
    message_options: dict[str, Any],
    attempts: int,
) -> None:
    declare(ValueError("no"), seen, **options).send_with_options(**message_options)
    start_worker(streams)
    letter = the_letter(streams)
    assert len(letter.attempts) == attempts
    assert letter.reason == "retries_exhausted"


FINAL: dict[str, tuple[BaseException, dict[str, Any], bool]] = {
    "never": (KeyError("x"), {"never_retry": LookupError}, True),
    "not never": (ValueError("x"), {"never_retry": (LookupError,)}, False),
    "on": (ConnectionError("x"), {"retry_on": OSError}, False),
    "not on": (ValueError("x"), {"retry_on": (OSError,)}, True),
    "throws": (ValueError("x"), {"throws": ValueError}, True),
    "cause": (wrapped(ConnectionError("x")), {"retry_on": OSError}, False),
    "cause never": (wrapped(KeyError("x")), {"never_retry": LookupError}, True),
    "never before on": (KeyError("x"), {"retry_on": KeyError, "never_retry": KeyError}, True),
    "asked for": (dramatiq.Retry("x", delay=1), {"retry_on": OSError}, False),
    "limited": (RateLimitExceeded("x"), {"retry_on": OSError}, False),
    "too slow": (TimeLimitExceeded(), {"retry_on": OSError}, False),
}


@pytest.mark.parametrize("name", FINAL)
def test_which_exceptions_are_final(
    streams: StreamsBroker, start_worker: StartWorker, seen: Seen, name: str
) -> None:
    error, options, final = FINAL[name]
    declare(error, seen, **options).send()
    start_worker(streams)
    letter = the_letter(streams)
    assert (len(letter.attempts) == 1) is final
    assert letter.reason == ("rejected" if final else "retries_exhausted")
    assert letter.error_type == type(error).__name__


def test_an_exceptions_own_wait_is_kept(
    streams: StreamsBroker, start_worker: StartWorker, seen: Seen
) -> None:
    slow = RetryPolicy(backoff="fixed", delay=300, jitter="none")
    declare(ValueError("no"), seen, retry_policies={ValueError: slow}).send()
    start_worker(streams)
    first, second = seen.take(2)
    assert 0.295 <= second - first <= 1.5


def test_a_job_that_says_its_wait_itself_is_obeyed(
    streams: StreamsBroker, start_worker: StartWorker, seen: Seen
) -> None:
    declare(dramatiq.Retry("later", delay=300), seen).send()
    start_worker(streams)
    first, second = seen.take(2)
    assert 0.295 <= second - first <= 1.5


def test_the_actor_for_exhausted_retries_gets_the_message(
    streams: StreamsBroker, start_worker: StartWorker, seen: Seen
) -> None:
    @dramatiq.actor(queue_name="exhausted")
    def exhausted(message: dict[str, Any], retries: dict[str, int]) -> None:
        seen.add((message["message_id"], retries))

    sent = declare(ValueError("no"), Seen(), on_retry_exhausted="exhausted").send()
    start_worker(streams)
    assert seen.next() == (sent.message_id, {"retries": 1, "max_retries": 1})


WAITS: list[tuple[dict[str, Any], int, float, float]] = [
    ({"backoff": "fixed", "jitter": "none"}, 5, 100, 100),
    ({"jitter": "none"}, 0, 100, 100),
    ({"jitter": "none"}, 3, 800, 800),
    ({"jitter": "none", "longest": 500}, 3, 500, 500),
    ({"jitter": "added"}, 1, 200, 400),
    ({"jitter": "added", "longest": 300}, 1, 150, 300),
    ({"jitter": "equal"}, 1, 100, 200),
    ({"jitter": "full"}, 1, 0, 200),
    ({"jitter": "none"}, 10**6, 604_800_000, 604_800_000),
]


@pytest.mark.parametrize(("policy", "retries", "least", "most"), WAITS)
def test_waits(policy: dict[str, Any], retries: int, least: float, most: float) -> None:
    made = RetryPolicy(delay=100, **policy)
    waits = [made.wait_ms(retries) for _ in range(200)]
    assert least <= min(waits) <= max(waits) <= most
    if least < most:
        spread = most - least
        assert min(waits) < least + spread / 4
        assert max(waits) > most - spread / 4


def test_the_settings_say_what_holds_for_a_queue() -> None:
    settings = Settings.load({})
    (retries,) = [each for each in stack(settings) if isinstance(each, PolicyRetries)]
    policy = retries.policy_of("maintenance-queue")
    assert policy == RetryPolicy(attempts=2, backoff="fixed", delay=60_000)
    assert retries.policy_of("elsewhere").attempts == settings.queue_defaults.attempts


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"retry_on": "OSError"}, "retry_on"),
    ({"retry_on": (OSError, 1)}, "retry_on"),
    ({"never_retry": [OSError]}, "never_retry"),
    ({"retry_policies": [OSError]}, "retry_policies"),
    ({"retry_policies": {OSError: 3}}, "retry_policies"),
    ({"retry_policies": {"OSError": QUICK}}, "retry_policies"),
]


@pytest.mark.parametrize(("options", "field"), WRONG, ids=str)
def test_wrong_policies_are_refused_when_declared(
    streams: StreamsBroker, seen: Seen, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidActorOption) as caught:
        declare(ValueError(), seen, **options)
    assert caught.value.field == field
    assert streams.get_declared_actors() == set()


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("attempts", 0), ("delay", 1.5), ("longest", 0), ("backoff", "linear"), ("jitter", "some")],
)
def test_a_wrong_policy_is_refused(field: str, wrong: object) -> None:
    with pytest.raises(InvalidActorOption) as caught:
        RetryPolicy(**{field: wrong})  # type: ignore[arg-type]
    assert (caught.value.field, caught.value.value) == (field, wrong)


@pytest.mark.parametrize("jitter", ["added", "equal", "full", "none"])
def test_every_jitter_keeps_below_the_longest_wait(jitter: Jitter) -> None:
    policy = RetryPolicy(delay=1_000, longest=1_500, jitter=jitter)
    assert max(policy.wait_ms(retries) for retries in range(50)) <= 1_500
