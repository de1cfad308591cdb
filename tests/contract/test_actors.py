"""Class-based actors, and an application's own encoder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal

import dramatiq
import pytest
from dramatiq import Broker, Encoder
from dramatiq.encoder import MessageData

from tests.conftest import StartWorker
from tests.contract.recording import Seen


def test_generic_actors_are_executed(broker: Broker, start_worker: StartWorker) -> None:
    seen = Seen()

    class Base(dramatiq.GenericActor):
        class Meta:
            abstract = True
            queue_name = "generic"
            max_retries = 3

        def perform(self, value: int) -> None:
            seen.add((type(self).__name__, value))

    class Foo(Base):
        pass

    class Bar(Base):
        pass

    start_worker(broker)
    Foo.send(1)
    Bar.send_with_options(args=(2,), delay=1)
    assert sorted(seen.take(2)) == [("Bar", 2), ("Foo", 1)]
    assert "generic" in broker.get_declared_queues()


class DecimalEncoder(Encoder):
    """JSON that carries decimals, behind a byte that is no JSON and no UTF-8."""

    MARK = b"\xff\x00"

    def encode(self, data: MessageData) -> bytes:
        def tag(value: object) -> object:
            if isinstance(value, Decimal):
                return {"decimal": str(value)}
            raise TypeError(f"{value!r} can't be encoded")

        return self.MARK + json.dumps(data, default=tag).encode()

    def decode(self, data: bytes) -> MessageData:
        def untag(value: dict[str, object]) -> object:
            return Decimal(str(value["decimal"])) if set(value) == {"decimal"} else value

        assert data.startswith(self.MARK)
        decoded: MessageData = json.loads(data[len(self.MARK) :], object_hook=untag)
        return decoded


@pytest.fixture
def _decimals() -> Iterator[None]:
    before = dramatiq.get_encoder()
    dramatiq.set_encoder(DecimalEncoder())
    yield
    dramatiq.set_encoder(before)


@pytest.mark.usefixtures("_decimals")
@pytest.mark.parametrize("delay", [None, 1], ids=["now", "delayed"])
def test_an_applications_own_encoder_is_used_also_for_retries(
    broker: Broker, start_worker: StartWorker, delay: int | None
) -> None:
    seen = Seen()
    attempts: list[int] = []

    @dramatiq.actor(max_retries=1, min_backoff=10, max_backoff=10)
    def price(amount: Decimal) -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise RuntimeError("not yet")
        seen.add(amount)

    start_worker(broker)
    price.send_with_options(args=(Decimal("12.30"),), delay=delay)
    assert seen.next() == Decimal("12.30")
