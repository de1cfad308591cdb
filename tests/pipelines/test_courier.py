"""Letters whose writer is gone: other workers deliver them, also after the server was away."""

from __future__ import annotations

from typing import Any

import dramatiq
import pytest
from dramatiq.errors import ConnectionClosed

from broker import StreamsBroker
from broker.courier import ABANDONED_AFTER_MS, Courier
from broker.outbox import Letter, Place
from pipelines import flows
from pipelines.flow import chain
from tests.conftest import StartWorker
from tests.waiting import PATIENCE_S, eventually

TIMEOUT_MS = int(PATIENCE_S * 1000)


@pytest.fixture
def abandoned(broker: StreamsBroker, monkeypatch: pytest.MonkeyPatch) -> str:
    """A flow whose starter died before it delivered a letter, long ago."""

    @dramatiq.actor(queue_name="home")
    def here(*given: Any) -> None: ...

    @dramatiq.actor(queue_name="away")
    def there(*given: Any) -> None: ...

    monkeypatch.setattr("pipelines.flows.deliver", lambda *_: None)
    steps = (there.message(), here.message_with_options(), here.message_with_options())
    flow_id = flows.start(chain("abandoned", *steps))
    outbox = broker.flows.keys("home").outbox
    ((_, fields),) = _client(broker).xrange(outbox)
    _client(broker).delete(outbox)
    _client(broker).xadd(outbox, fields, id="1-1")
    return flow_id


def test_an_abandoned_letter_is_delivered_by_the_next_worker_that_looks(
    broker: StreamsBroker, abandoned: str, start_worker: StartWorker
) -> None:
    start_worker(broker)
    assert flows.wait(abandoned, TIMEOUT_MS).state == "completed"
    eventually(
        lambda: _client(broker).xlen(broker.flows.keys("home").outbox), lambda n: n == 0, what="end"
    )


def test_letters_wait_for_a_server_that_is_away(
    broker: StreamsBroker, abandoned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []
    receive = broker.flows.receive

    def sometimes(queue: str, parcel: bytes) -> int:
        tries.append(queue)
        if len(tries) < 3:
            raise ConnectionClosed(OSError("away"))
        return receive(queue, parcel)

    monkeypatch.setattr(broker.flows, "receive", sometimes)
    courier = Courier(broker.flows, lambda *_: None)
    courier.start()
    courier.sweep("home")
    eventually(lambda: broker.inspector.size("away"), lambda size: size == 1, what="the step")
    courier.stop(1)
    assert tries == ["away"] * 3


def test_a_letter_that_cant_be_delivered_does_not_hold_up_the_others(
    broker: StreamsBroker, abandoned: str
) -> None:
    broken = {"kind": "end", "to": "no place", "body": ""}
    _client(broker).xadd(broker.flows.keys("home").outbox, broken, id="1-2")
    _client(broker).xadd(broker.flows.keys("home").outbox, {**broken, "to": "{}"}, id="1-3")
    courier = Courier(broker.flows, lambda *_: None)
    courier.start()
    courier.sweep("home")
    eventually(lambda: broker.inspector.size("away"), lambda size: size == 1, what="the step")
    courier.stop(1)
    eventually(
        lambda: _client(broker).xlen(broker.flows.keys("home").outbox), lambda n: n == 2, what="end"
    )


def test_a_young_letter_is_its_writers(broker: StreamsBroker) -> None:
    outbox = broker.flows.keys("home").outbox
    id = _client(broker).xadd(outbox, {"kind": "send", "to": "", "body": b"\x90"})
    now_ms, (letter,) = broker.flows.letters("home", 10)
    assert letter == Letter(id, "send", "", b"\x90")
    assert now_ms - letter.written_at_ms < ABANDONED_AFTER_MS


@pytest.mark.parametrize("text", ["", "{ns:q}:flow:x", "{other:q}:flow:x/1/2", "{ns:q}:flow:/1/2"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="place|unpack"):
        Place.parse("ns", text)
    assert Place.parse("ns", "{ns:q/1}:flow:q/1.x/1/2") == Place("q/1", "q/1.x", 1, 2)


def _client(broker: StreamsBroker) -> Any:
    """redis-py's types allow decoded replies everywhere."""
    return broker.client
