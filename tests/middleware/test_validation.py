"""Validated actors: refused in the caller, refused in the worker, older messages still run."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Message
from dramatiq.middleware import CurrentMessage

from broker import InvalidOption, StreamsBroker
from broker.dead_letter import DeadLetter
from broker.embedded import EmbeddedValkey
from middleware.payload import InvalidPayload, Payload, RuleBroken
from middleware.periodic import Periodic, cron
from middleware.validation import ValidatedActor, Validation
from tests.conftest import NewBroker, StartWorker
from tests.contract.recording import Seen
from tests.waiting import eventually

QUEUE = "work"


class Greeting(Payload, frozen=True, kw_only=True):
    user_id: str
    language: str

    def check(self) -> None:
        if self.language == "xx":
            raise RuleBroken("$.language", "must be a language")


@pytest.fixture
def streams(valkey_server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    made = new_broker("streams", valkey_server.url, unknown_actor_grace=0)
    assert isinstance(made, StreamsBroker)
    made.add_middleware(CurrentMessage())
    made.add_middleware(Validation())
    return made


@pytest.fixture
def seen() -> Seen:
    return Seen()


def declare(seen: Seen, **options: Any) -> ValidatedActor[..., None]:
    @dramatiq.actor(queue_name=QUEUE, actor_class=ValidatedActor, min_backoff=1, **options)
    def greet(greeting: Greeting) -> None:
        seen.add(greeting)

    assert isinstance(greet, ValidatedActor)
    return greet


def the_letter(streams: StreamsBroker) -> DeadLetter:
    (letter,) = eventually(
        lambda: streams.inspector.dead(QUEUE), lambda found: len(found) == 1, what="the burial"
    )
    return letter


def foreign(streams: StreamsBroker, *args: object, **options: object) -> None:
    """As a producer in another language, or with older code, has written it."""
    streams.declare_queue(QUEUE)
    streams.enqueue(Message(QUEUE, "greet", args, {}, dict(options)))


OLD = {"userId": "u1"}
NEW = {"userId": "u1", "language": "en"}


def with_language(greeting: dict[str, Any]) -> dict[str, Any]:
    return {**greeting, "language": "en"}


def test_a_payload_arrives_typed(streams: StreamsBroker, start_worker: StartWorker) -> None:
    seen = Seen()
    greet = declare(seen)
    start_worker(streams)
    greeting = Greeting(user_id="u1", language="en")
    assert greet.send(greeting).args == (NEW,)
    assert seen.next() == greeting


def test_an_asyncio_actor_is_validated_as_well(
    streams: StreamsBroker, start_worker: StartWorker, seen: Seen
) -> None:
    streams.add_middleware(dramatiq.middleware.AsyncIO())

    @dramatiq.actor(queue_name=QUEUE, actor_class=ValidatedActor)
    async def greet(greeting: Greeting) -> None:
        seen.add(greeting)

    start_worker(streams)
    greet.send(Greeting(user_id="u1", language="en"))
    assert seen.next() == Greeting(user_id="u1", language="en")


SENDS: dict[str, Callable[[Any, Any], object]] = {
    "send": lambda actor, payload: actor.send(payload),
    "send_with_options": lambda actor, payload: actor.send_with_options(args=(payload,), delay=9),
    "message": lambda actor, payload: actor.message(payload),
    "nothing": lambda actor, payload: actor.send(),
}


@pytest.mark.parametrize("how", SENDS)
def test_a_bad_payload_fails_in_the_caller(streams: StreamsBroker, seen: Seen, how: str) -> None:
    with pytest.raises(InvalidPayload) as caught:
        SENDS[how](declare(seen), {"userId": 7, "language": "en"})
    if how != "nothing":
        assert caught.value.path == "$.userId"
        assert "greet" in str(caught.value)
        assert "Expected `str`, got `int`" in str(caught.value)
    assert streams.inspector.size(QUEUE) == 0


def test_a_payloads_own_rules_hold_in_the_caller(streams: StreamsBroker, seen: Seen) -> None:
    with pytest.raises(InvalidPayload, match=r"\$\.language: must be a language"):
        declare(seen).send(Greeting(user_id="u", language="xx"))


@pytest.mark.parametrize(
    "args",
    [({"userId": 7, "language": "en"},), (), ({**NEW, "more": 1},), ({**NEW, "language": "xx"},)],
    ids=["type", "missing", "unknown field", "own rule"],
)
def test_a_bad_payload_is_buried_in_the_worker_and_not_tried_again(
    streams: StreamsBroker, start_worker: StartWorker, seen: Seen, args: tuple[object, ...]
) -> None:
    declare(seen)
    foreign(streams, *args)
    start_worker(streams)
    letter = the_letter(streams)
    assert (letter.reason, letter.error_type) == ("invalid", "InvalidPayload")
    assert "greet" in letter.error
    assert letter.attempts == []
    assert letter.message is not None
    assert letter.message.args == args
    assert seen.nothing_more(0)


def test_a_message_from_before_a_deploy_runs_after_it(
    streams: StreamsBroker, start_worker: StartWorker, seen: Seen
) -> None:
    declare(seen, version=3, upcasters={1: lambda user_id: {"userId": user_id}, 2: with_language})
    foreign(streams, "u1")
    foreign(streams, OLD, payload_version=2)
    foreign(streams, NEW, payload_version=3)
    start_worker(streams)
    assert seen.take(3) == [Greeting(user_id="u1", language="en")] * 3


def test_an_old_message_that_fails_stays_as_old_as_it_was(
    streams: StreamsBroker, start_worker: StartWorker, seen: Seen
) -> None:
    @dramatiq.actor(
        queue_name=QUEUE,
        actor_class=ValidatedActor,
        version=2,
        upcasters={1: with_language},
        max_retries=1,
        min_backoff=1,
        max_backoff=1,
    )
    def greet(greeting: Greeting) -> None:
        seen.add(greeting)
        raise ValueError("no")

    foreign(streams, OLD)
    start_worker(streams)
    assert seen.take(2) == [Greeting(user_id="u1", language="en")] * 2
    letter = the_letter(streams)
    assert letter.message is not None
    assert letter.message.args == (OLD,)


def test_a_notice_of_a_death_has_the_version_of_its_actor(
    streams: StreamsBroker, start_worker: StartWorker, seen: Seen
) -> None:
    @dramatiq.actor(queue_name="notices", actor_class=ValidatedActor, version=2, upcasters={})
    def tell(notice: dict[str, Any]) -> None:
        seen.add(notice["id"])

    @dramatiq.actor(queue_name=QUEUE, max_retries=0, on_dead=tell)
    def fail() -> None:
        raise LookupError("no such user")

    sent = fail.send()
    start_worker(streams)
    assert seen.next() == sent.message_id


def test_a_fire_has_the_version_of_its_actor(
    streams: StreamsBroker, start_worker: StartWorker, seen: Seen
) -> None:
    streams.add_middleware(Periodic())

    @dramatiq.actor(
        queue_name=QUEUE,
        actor_class=ValidatedActor,
        version=2,
        upcasters={},
        periodic=cron("* * * * *"),
    )
    def report(days: int = 7) -> None:
        seen.add(days)

    periodic: Any = report.options["periodic"]
    periodic.validate(datetime.now(UTC))  # as periodiq's command line does
    start_worker(streams)
    assert seen.next() == 7


def test_a_message_says_its_version(streams: StreamsBroker, seen: Seen) -> None:
    greet = declare(seen, version=2, upcasters={1: with_language})
    message = greet.message(Greeting(user_id="u", language="en"))
    assert message.options == {"payload_version": 2}


@pytest.mark.parametrize("version", [0, -1, "2", 1.0, True, None], ids=repr)
def test_a_version_that_is_none_is_invalid(
    streams: StreamsBroker, start_worker: StartWorker, seen: Seen, version: object
) -> None:
    declare(seen, version=2)
    foreign(streams, NEW, payload_version=version)
    start_worker(streams)
    assert the_letter(streams).reason == "invalid"


def test_a_version_that_nothing_leads_on_from_is_invalid(
    streams: StreamsBroker, start_worker: StartWorker, seen: Seen
) -> None:
    declare(seen, version=2)
    foreign(streams, OLD)
    start_worker(streams)
    assert "nothing leads on from version 1" in the_letter(streams).error


def test_an_upcaster_that_fails_makes_the_message_invalid(
    streams: StreamsBroker, start_worker: StartWorker, seen: Seen
) -> None:
    declare(seen, version=2, upcasters={1: lambda greeting: greeting["nothing"]})
    foreign(streams, OLD)
    start_worker(streams)
    letter = the_letter(streams)
    assert letter.reason == "invalid"
    assert "KeyError from version 1" in letter.error


def test_a_newer_version_waits_for_the_deploy_and_is_buried_when_none_comes(
    valkey_server: EmbeddedValkey, new_broker: NewBroker, start_worker: StartWorker, seen: Seen
) -> None:
    streams = new_broker("streams", valkey_server.url, unknown_actor_grace=300)
    assert isinstance(streams, StreamsBroker)
    streams.add_middleware(Validation())
    declare(seen)
    foreign(streams, NEW, payload_version=2)
    start_worker(streams)
    k = streams.commands.keys(QUEUE)
    client: redis.Redis = streams.client
    eventually(lambda: client.zcard(k.scheduled), lambda n: n == 1, what="a retry")
    letter = the_letter(streams)
    assert letter.reason == "invalid"
    assert "version 2, known are 1 to 1" in letter.error
    assert letter.died_at_ms - (letter.message.message_timestamp if letter.message else 0) >= 300
    assert seen.nothing_more(0)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"version": 0}, "version"),
        ({"version": "1"}, "version"),
        ({"version": 2, "upcasters": {2: with_language}}, "upcasters"),
        ({"version": 3, "upcasters": {1: with_language}}, "upcasters"),
        ({"version": 1, "upcasters": {0: with_language}}, "upcasters"),
        ({"version": 2, "upcasters": {1: "with_language"}}, "upcasters"),
    ],
    ids=["zero", "text", "one too high", "one missing", "one too low", "no function"],
)
def test_wrong_versions_are_refused_when_declared(
    streams: StreamsBroker, seen: Seen, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidOption) as caught:
        declare(seen, **options)
    assert caught.value.field == field


def test_an_actor_without_the_middleware_is_refused(
    valkey_server: EmbeddedValkey, new_broker: NewBroker, seen: Seen
) -> None:
    new_broker("streams", valkey_server.url)
    with pytest.raises(InvalidOption, match="Validation"):
        declare(seen)
