"""One run of the benchmark: its server, its size, and measurements taken in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, TypeVar

import redis

from bench.peers import Peer, declare_noop
from broker import StreamsBroker
from broker.embedded import EmbeddedValkey

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int
    #: Jobs of one drain or one enqueue.
    jobs: int
    #: Jobs sent to an idle worker, over all rounds.
    sends: int
    #: Jobs scheduled, over all rounds.
    scheduled: int
    #: How long an idle worker is watched, in seconds.
    idle_s: float
    #: Jobs in a backlog that counts as a large one.
    backlog: int
    #: How long the server may take to forget what was drained, in seconds.
    forget_s: float
    #: Middleware measured alone; None: each of the application's list.
    alone: int | None = None


WHOLE = Size(
    rounds=3, jobs=20_000, sends=300, scheduled=300, idle_s=20, backlog=1_000_000, forget_s=120
)
#: To see that everything works; its figures say nothing.
QUICK = Size(
    rounds=1, jobs=200, sends=6, scheduled=6, idle_s=0.5, backlog=2_000, forget_s=0.1, alone=1
)


@dataclass(frozen=True, slots=True)
class Run:
    """What every measurement is given."""

    server: EmbeddedValkey
    size: Size
    say: Callable[[str], None]

    @property
    def url(self) -> str:
        return self.server.url

    def namespace(self) -> str:
        """One that nobody used, as long as `chatgenius`: keys take memory too."""
        return f"b-{token_hex(4)}"

    def clean(self) -> None:
        """Empty the server; it is the benchmark's own."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def in_turns(self, cases: Sequence[T]) -> Iterator[T]:
        """Every case in every round; who goes first changes from round to round."""
        for number in range(self.size.rounds):
            first = number % len(cases)
            yield from (*cases[first:], *cases[:first])

    def fill(
        self, peer: Peer, namespace: str, jobs: int, argument: Callable[[int], Any] = int
    ) -> None:
        """Put jobs into a queue as fast as that broker can; each has one argument."""
        broker = peer.build(self.url, namespace)
        noop = declare_noop(broker, peer)
        if isinstance(broker, StreamsBroker):
            for first in range(0, jobs, 1_000):
                numbers = range(first, min(first + 1_000, jobs))
                broker.enqueue_many(noop.message(argument(number)) for number in numbers)
        else:
            for number in range(jobs):
                noop.send(argument(number))
        broker.close()
