"""Inline mode: `send()` runs the job here, through the same middleware, and needs no server."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.middleware import (
    AsyncIO,
    Callbacks,
    CurrentMessage,
    Middleware,
    Pipelines,
    Retries,
    ShutdownNotifications,
)

from broker import (
    InvalidOption,
    MessageTooLarge,
    Rate,
    RateLimited,
    StreamsBroker,
    current_job,
)
from broker.embedded import EmbeddedValkey
from broker.errors import NotInline
from broker.inline import InlineBroker
from middleware.encryption import Encryption
from middleware.keyring import KeyRing, new_key
from middleware.rate_limits import RateLimits
from pipelines import flows
from pipelines.flow import chain
from tests.waiting import wait_for

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def seen() -> list[Any]:
    return []


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> InlineBroker:
    made = InlineBroker(
        url=NOWHERE,
        namespace="inline",
        middleware=[
            *(CurrentMessage(), ShutdownNotifications(), AsyncIO(), RateLimits()),
            *(Callbacks(), Pipelines(), Retries()),
        ],
        max_message_bytes=10_000,
    )
    monkeypatch.setattr(dramatiq.broker, "global_broker", made)
    return made


def test_a_job_has_run_when_send_returns(broker: InlineBroker, seen: list[Any]) -> None:
    @dramatiq.actor(broker=broker)
    def note(what: Any) -> None:
        seen.append((what, threading.get_ident(), current_job().attempt))

    sent = note.send((1, 2))
    assert seen == [([1, 2], threading.get_ident(), 1)]  # as JSON has it
    assert sent.actor_name == "note"


def test_a_failing_job_is_tried_again_and_does_not_raise_in_the_caller(
    broker: InlineBroker, seen: list[Any]
) -> None:
    @dramatiq.actor(broker=broker, max_retries=2, min_backoff=1, max_backoff=2)
    def fail() -> None:
        seen.append(current_job().attempt)
        raise ValueError("no")

    fail.send()
    assert seen == [1, 2, 3]
    (ended,) = broker.failed
    assert (ended.reason, ended.error) == ("retries_exhausted", "ValueError: no")


def test_no_wait_before_a_retry_is_longer_than_a_second(
    broker: InlineBroker, seen: list[Any]
) -> None:
    @dramatiq.actor(broker=broker, max_retries=1, min_backoff=3_600_000)
    def fail() -> None:
        seen.append(time.monotonic())
        raise ValueError("no")

    fail.send()
    first, second = seen
    assert 0.5 < second - first < 5


def test_what_a_job_sends_runs_after_it(broker: InlineBroker, seen: list[Any]) -> None:
    @dramatiq.actor(broker=broker)
    def outer() -> None:
        inner.send()
        seen.append("outer")
        assert CurrentMessage.get_current_message() is not None

    @dramatiq.actor(broker=broker)
    def inner() -> None:
        seen.append("inner")

    outer.send()
    assert seen == ["outer", "inner"]


def test_pipelines_and_coroutines_run(broker: InlineBroker, seen: list[Any]) -> None:
    @dramatiq.actor(broker=broker)
    async def double(number: int) -> int:
        await asyncio.sleep(0)
        seen.append(number)
        return 2 * number

    (double.message(2) | double.message_with_options()).run()
    assert seen == [2, 4]


def test_a_delayed_job_runs_after_its_delay_and_send_returns_before(
    broker: InlineBroker, seen: list[Any]
) -> None:
    done = threading.Event()

    @dramatiq.actor(broker=broker)
    def later() -> None:
        seen.append("ran")
        done.set()

    later.send_with_options(delay=50)
    assert seen == []
    wait_for(done, "the delayed job")


def test_what_is_refused_by_a_queue_is_refused_here(broker: InlineBroker, seen: list[Any]) -> None:
    @dramatiq.actor(broker=broker)
    def note(what: Any) -> None:
        seen.append(what)

    with pytest.raises(InvalidOption):
        note.send_with_options(args=(1,), broker_priority=99)
    with pytest.raises(MessageTooLarge):
        note.send("x" * 20_000)
    with pytest.raises(TypeError):
        note.send(object())
    assert seen == []


def test_a_limit_lets_every_job_begin_and_one_that_is_told_to_wait_comes_back(
    broker: InlineBroker, seen: list[Any]
) -> None:
    @dramatiq.actor(broker=broker, rate_key="partner", rate=Rate(1, 60_000), max_retries=0)
    def call(number: int) -> None:
        seen.append(number)
        if seen.count(number) == 1:
            raise RateLimited(1)

    call.send(1)
    call.send(2)
    assert seen == [1, 1, 2, 2]
    assert not broker.failed


def test_an_encrypted_job_runs_too(monkeypatch: pytest.MonkeyPatch, seen: list[Any]) -> None:
    encryption = Encryption(KeyRing.from_text(f"k:{new_key()}"), default=True)
    broker = InlineBroker(url=NOWHERE, middleware=[encryption])

    @dramatiq.actor(broker=broker)
    def note(what: str) -> None:
        seen.append(what)

    note.send("geheim")
    assert seen == ["geheim"]


def test_hooks_are_those_of_a_worker(broker: InlineBroker, seen: list[Any]) -> None:
    def noting(name: str) -> Callable[..., None]:
        return lambda *_, **__: seen.append(name)

    wanted = ["before_enqueue", "after_enqueue", "before_process_message", "job"]
    wanted += ["after_process_message", "before_ack", "after_ack"]
    hooks = {name: noting(name) for name in wanted if name != "job"}
    Listener = type("Listener", (Middleware,), hooks)  # noqa: N806 - a class
    broker.add_middleware(Listener())

    @dramatiq.actor(broker=broker)
    def note() -> None:
        seen.append("job")

    note.send()
    assert seen == wanted


def test_what_needs_a_server_says_so(broker: InlineBroker) -> None:
    @dramatiq.actor(broker=broker)
    def note() -> None: ...

    with pytest.raises(NotInline):
        flows.start(chain("f", Message[Any]("default", "note", (), {}, {})), broker=broker)
    with pytest.raises(NotInline):
        broker.consume("default")


def test_the_queues_of_a_server_are_neither_emptied_nor_waited_for(
    server: EmbeddedValkey, namespace: str
) -> None:
    streams = StreamsBroker(url=server.url, namespace=namespace, middleware=[])
    inline = InlineBroker(url=server.url, namespace=namespace, middleware=[])
    for each in (streams, inline):
        each.declare_queue("default")
    streams.enqueue(Message("default", "act", (), {}, {}))
    with pytest.raises(NotInline):
        inline.flush_all()
    with pytest.raises(NotInline):
        inline.flush("default")
    with pytest.raises(NotInline):
        inline.join("default")
    assert streams.inspector.queue("default").ready == 1


def test_an_unknown_actor_fails_at_once(broker: InlineBroker) -> None:
    broker.enqueue(Message("default", "nobody", (), {}, {}))
    (ended,) = broker.failed
    assert ended.reason == "unknown_actor"


def test_a_callers_own_interrupt_reaches_it(broker: InlineBroker) -> None:
    @dramatiq.actor(broker=broker)
    def note() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        note.send()
