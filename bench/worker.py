"""A worker process of the benchmark: `python -m bench.worker TASK`, the task as JSON.

It says a line of JSON on stdout when it is ready, begins at the first line on stdin, says
what it measured, and ends when stdin does; a line `stop` ends it the orderly way.
"""

from __future__ import annotations

import itertools
import os
import re
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any, Literal

import dramatiq
import msgspec
from dramatiq import Worker

from bench.peers import QUEUE, AnyBroker, Peer

#: How long a task may take, in seconds.
PATIENCE_S = 900


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker process does."""

    peer: Peer
    url: str
    namespace: str
    threads: int = 8
    #: Jobs that the process enqueues itself before it is ready; for a broker in memory.
    fill: int = 0
    #: `empty`: until the queue is. `ran`: until so many jobs ran. `told`: until it is stopped.
    until: Literal["empty", "ran", "told"]
    #: Jobs this process is going to run, if that is known.
    jobs: int | None = None


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The broker is built, nothing is consumed yet."""


class Drained(msgspec.Struct, frozen=True, tag=True):
    """Times of the machine's monotonic clock, in seconds."""

    begin: float
    end: float
    #: CPU time of the process in between, in seconds.
    cpu: float
    ran: int
    #: Resident memory at its peak.
    peak_mb: float
    #: CPU time of the process's boot before it began, in milliseconds.
    boot_ms: float


class Started(msgspec.Struct, frozen=True, tag=True):
    """A job `start` has started."""

    number: int
    monotonic_ns: int
    wall_ns: int


Report = Ready | Drained | Started


class Counter:
    """Counts executions without a lock, so that it costs every peer next to nothing."""

    def __init__(self, wanted: int | None) -> None:
        self.reached = threading.Event()
        self._wanted = wanted
        self._ran = itertools.count(1)

    def count(self) -> None:
        """One more; atomic."""
        if next(self._ran) == self._wanted:
            self.reached.set()

    def total(self) -> int:
        """Executions until now; counts no further."""
        return next(self._ran) - 1


def say(report: Report) -> None:
    """One line to the process that started this one."""
    os.write(1, msgspec.json.encode(report) + b"\n")


def declare(broker: AnyBroker, peer: Peer, counter: Counter) -> None:
    """The actors, as a worker has them."""

    @dramatiq.actor(broker=broker, queue_name=QUEUE, **peer.actor_options)
    def noop(*_arguments: object) -> None:
        counter.count()

    if peer.hands_on:

        @dramatiq.actor(broker=broker, queue_name=QUEUE, **peer.step_options)
        def step(*_given: object) -> int:
            counter.count()
            return 1

    @dramatiq.actor(broker=broker, queue_name=QUEUE)
    def start(number: int) -> None:
        say(Started(number, time.monotonic_ns(), time.time_ns()))


def drain(task: Task, broker: AnyBroker, counter: Counter) -> tuple[Worker, Drained]:
    """Start a worker and see it through its jobs."""
    boot_ms = _boot(broker)
    cpu, begin = time.process_time(), time.monotonic()
    worker = _start(task, broker)
    if task.jobs is not None and not counter.reached.wait(PATIENCE_S):
        raise TimeoutError(f"not all jobs ran within {PATIENCE_S} s")
    if task.until == "empty":
        _join(task, broker)
    end = time.monotonic()
    cpu = time.process_time() - cpu
    return worker, Drained(begin, end, cpu, counter.total(), _peak_mb(), boot_ms)


def _boot(broker: AnyBroker) -> float:
    # Dramatiq's command line does so before there is a worker.
    begin = time.process_time()
    broker.emit_after("process_boot")
    return (time.process_time() - begin) * 1000


def _peak_mb() -> float:
    # Not by getrusage where there is another way: its peak outlives exec, so it would be that
    # of the process which started this one, if that is larger.
    try:
        status = Path("/proc/self/status").read_text("ascii")
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(peak) / 1024


def _start(task: Task, broker: AnyBroker) -> Worker:
    worker = Worker(broker, worker_threads=task.threads)
    worker.start()
    return worker


def _join(task: Task, broker: AnyBroker) -> None:
    options: dict[str, Any] = {"timeout": PATIENCE_S * 1000}
    if task.peer.broker != "stub":
        # A look at the queue costs the worker's process something, so only the last few
        # milliseconds are looked at closely, when it is known which they are.
        options["interval"] = 50 if task.jobs is None else 2
    broker.join(QUEUE, **options)


def main() -> None:
    """Do the task of the command line."""
    task = msgspec.json.decode(sys.argv[1], type=Task)
    counter = Counter(task.jobs)
    broker = task.peer.build(task.url, task.namespace)
    declare(broker, task.peer, counter)
    for number in range(task.fill):
        broker.get_actor("noop").send(number)
    say(Ready())
    if not sys.stdin.readline():
        os._exit(1)
    if task.until == "told":
        _boot(broker)
        worker = _start(task, broker)
    else:
        worker, drained = drain(task, broker, counter)
        say(drained)
    if sys.stdin.readline():
        worker.stop()
        broker.close()
    # Without a word: whoever started this does not want to wait for idle threads.
    os._exit(0)


if __name__ == "__main__":
    main()
