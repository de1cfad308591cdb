"""Producers at a queue that is as long as it may be: refused at once, or after a wait."""

from __future__ import annotations

import threading
import time
from typing import Any

import dramatiq
import pytest
from dramatiq import Actor, Broker, Message
from dramatiq.middleware import Middleware

from broker import QueueDepth, QueueFull, StreamsBroker
from broker.embedded import EmbeddedValkey
from broker.errors import InvalidOption
from broker.settings import Settings
from tests.conftest import NewBroker, StartWorker
from tests.contract.recording import Seen
from tests.waiting import PATIENCE_S, eventually

QUEUE = "work"
TIMEOUT_MS = int(PATIENCE_S * 1000)


class Bounded:
    """A broker whose queue has a bound, and an actor that fails the first time if it is told to."""

    def __init__(self, broker: StreamsBroker) -> None:
        self.broker = broker
        self.seen = Seen()

        @dramatiq.actor(queue_name=QUEUE, max_retries=1, min_backoff=1, max_backoff=1)
        def job(what: str) -> None:
            self.seen.add(what)
            if what == "fails":
                raise RuntimeError("on purpose")

        self.job: Actor[[str], None] = job

    def fill(self) -> None:
        for name in "ab":
            self.job.send(name)


@pytest.fixture
def make(valkey_server: EmbeddedValkey, new_broker: NewBroker) -> Any:
    def made(**options: Any) -> Bounded:
        broker = new_broker("streams", valkey_server.url, **options)
        assert isinstance(broker, StreamsBroker)
        return Bounded(broker)

    return made


def test_a_producer_is_refused_at_once_and_nothing_was_sent(make: Any) -> None:
    bounded = make(depths={QUEUE: QueueDepth(2)})
    bounded.fill()
    began_s = time.monotonic()
    with pytest.raises(QueueFull):
        bounded.job.send("c")
    with pytest.raises(QueueFull):
        bounded.job.send_with_options(args=("c",), delay=10)
    assert time.monotonic() - began_s < 1
    assert bounded.broker.inspector.size(QUEUE) == 2


def test_another_queue_has_no_bound(make: Any) -> None:
    bounded = make(depths={"other": QueueDepth(1)})
    bounded.fill()
    assert bounded.broker.inspector.size(QUEUE) == 2


def test_a_blocked_producer_goes_on_when_there_is_room(
    make: Any, start_worker: StartWorker
) -> None:
    bounded = make(depths={QUEUE: QueueDepth(2, block_ms=TIMEOUT_MS)})
    bounded.fill()
    sent = threading.Event()

    def send() -> None:
        bounded.job.send("c")
        sent.set()

    producer = threading.Thread(target=send, daemon=True)
    producer.start()
    assert not sent.wait(0.2)
    start_worker(bounded.broker, threads=1)
    assert bounded.seen.take(3) == ["a", "b", "c"]
    producer.join(PATIENCE_S)


def test_a_blocked_producer_is_refused_in_the_end(make: Any) -> None:
    bounded = make(depths={QUEUE: QueueDepth(2, block_ms=150)})
    bounded.fill()
    began_s = time.monotonic()
    with pytest.raises(QueueFull):
        bounded.job.send("c")
    assert 0.15 <= time.monotonic() - began_s < 2


def test_retries_and_redrives_are_never_refused(make: Any, start_worker: StartWorker) -> None:
    bounded = make(depths={QUEUE: QueueDepth(1)})
    broker: StreamsBroker = bounded.broker
    bounded.job.send("fails")
    start_worker(broker, threads=1)
    assert bounded.seen.take(2) == ["fails", "fails"]
    eventually(lambda: broker.inspector.queue(QUEUE).dead, lambda dead: dead == 1, what="burial")
    broker.inspector.pause(QUEUE)
    bounded.job.send("fills it")
    assert broker.inspector.redrive(QUEUE) == 1
    assert broker.inspector.size(QUEUE) == 2


def test_what_a_hook_sends_is_not_refused_since_nobody_would_hear_of_it(make: Any) -> None:
    class Sends(Middleware):
        def after_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
            if message.args == ("a",):
                broker.enqueue(message.copy(args=("from a hook",), message_id="hook"))

    bounded = make(depths={QUEUE: QueueDepth(1)})
    bounded.broker.add_middleware(Sends())
    bounded.job.send("a")
    assert bounded.broker.inspector.size(QUEUE) == 2
    with pytest.raises(QueueFull):
        bounded.job.send("b")


@pytest.mark.parametrize(
    ("depth", "field"), [(QueueDepth(0), "max_depth"), (QueueDepth(1, -1), "block_ms")]
)
def test_a_bad_bound_names_field_value_and_rule(depth: QueueDepth, field: str) -> None:
    with pytest.raises(InvalidOption, match=rf"depths\['{QUEUE}'\].{field}: must be an integer"):
        StreamsBroker(depths={QUEUE: depth})


def test_the_settings_give_the_bounds(tmp_path: Any) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(
        """
        [queues.mail]
        max_depth = 100
        [queues.slow]
        max_depth = 10
        on_full = "block"
        block_for = 5_000
        """,
        encoding="utf-8",
    )
    depths = Settings.load({}, path).depths
    assert dict(depths) == {"mail": QueueDepth(100), "slow": QueueDepth(10, 5_000)}
    assert "notification-queue" not in depths
