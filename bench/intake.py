"""How fast one process takes events of a stream, until their messages lie in a queue."""

from __future__ import annotations

import time
from statistics import median
from typing import Any, Final

import dramatiq
import msgspec
import redis

from bench.figure import Figure, at_least_a_second
from bench.run import Run
from broker import StreamsBroker
from broker.settings import Settings
from middleware.events import on_event
from middleware.stack import stack

STREAM: Final = "chatgenius:messages"
QUEUE: Final = "mentions"


class Posted(msgspec.Struct):
    """What a chat's event is like."""

    room: int
    author: str
    text: str


def intake(run: Run) -> list[Figure]:
    """With the application's middleware, a payload and a filter."""
    rates = []
    for _ in range(run.size.rounds):
        rates.append(_rate(run))
        run.clean()
        run.say(f"intake: {rates[-1]:,.0f} events/s")
    return [
        Figure(
            name="intake",
            title="events taken by one process",
            ours=median(rates),
            peer=None,
            peer_name="",
            unit="events/s",
            target=at_least_a_second(5_000),
        )
    ]


def _rate(run: Run) -> float:
    broker = StreamsBroker(
        url=run.url, namespace=run.namespace(), middleware=stack(Settings.load({}))
    )
    _subscribe(broker, run.size.jobs)
    with redis.Redis.from_url(run.url) as client:
        _post(client, run.size.jobs)
        worker = dramatiq.Worker(broker, queues={"another"}, worker_threads=1)
        begin = time.perf_counter()
        worker.start()
        try:
            while client.xlen(broker.commands.keys(QUEUE).ready[0]) < run.size.jobs:
                time.sleep(0.005)
            return run.size.jobs / (time.perf_counter() - begin)
        finally:
            worker.stop()
            broker.close()


def _subscribe(broker: StreamsBroker, events: int) -> None:
    @on_event(
        STREAM, payload=Posted, where=lambda posted: "@" in posted.text, most_waiting=2 * events
    )
    @dramatiq.actor(queue_name=QUEUE, broker=broker)
    def notify(posted: dict[str, Any]) -> None: ...


def _post(client: redis.Redis, events: int) -> None:
    text = "have you seen what @grace wrote about compilers?"
    for first in range(0, events, 1_000):
        with client.pipeline(transaction=False) as pipe:
            for number in range(first, min(first + 1_000, events)):
                pipe.xadd(STREAM, {"room": number % 100, "author": "ada", "text": text})
            pipe.execute()
