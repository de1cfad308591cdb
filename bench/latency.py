"""How long an idle worker takes to start a job: one sent now, and one whose time has come."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

from bench.figure import Figure, Target, at_most
from bench.peers import HEADRACE, STOCK, Peer, declare_start
from bench.processes import WorkerProcess
from bench.run import Run
from bench.worker import Task

#: Between a job's start and the next send; random, so that no poller's rhythm is met.
PAUSE_MS = (50, 150)
#: Sent first and not counted: they connect, load scripts and note the queue.
WARM_UP = 3
#: Between the times of two scheduled jobs.
SPACING_MS = 40
#: The first scheduled job is due so long after it is sent.
LEAD_MS = 500


@dataclass(slots=True)
class Lateness:
    """How late scheduled jobs started, in ms; and how many of them too early."""

    late: list[float] = field(default_factory=list)
    early: int = 0


def latency(run: Run) -> list[Figure]:
    """From the call of send to the start of the job, one job at a time."""
    waits: dict[Peer, list[float]] = defaultdict(list)
    for peer in run.in_turns([HEADRACE, STOCK]):
        waits[peer] += _send_one_by_one(run, peer, run.size.sends // run.size.rounds)
        run.say(f"{peer.name}: p50 {percentile(waits[peer], 50):.2f} ms until a job starts")
    return [
        _figure("start", "send to start, idle worker", share, waits[HEADRACE], waits[STOCK], target)
        for share, target in ((50, at_most(1)), (99, at_most(5)))
    ]


def schedule(run: Run) -> list[Figure]:
    """From the time a job was scheduled for to its start, on a queue with nothing else to do."""
    found: dict[Peer, Lateness] = {HEADRACE: Lateness(), STOCK: Lateness()}
    for peer in run.in_turns(list(found)):
        _schedule_ahead(run, peer, run.size.scheduled // run.size.rounds, found[peer])
        run.say(f"{peer.name}: p50 {percentile(found[peer].late, 50):.2f} ms late")
    ours, stock = found[HEADRACE], found[STOCK]
    return [
        _figure("scheduled-late", "scheduled job's lateness", 50, ours.late, stock.late),
        _figure(
            "scheduled-late", "scheduled job's lateness", 99, ours.late, stock.late, at_most(20)
        ),
        Figure(
            name="scheduled-early",
            title="scheduled jobs before their time",
            ours=ours.early,
            peer=stock.early,
            peer_name=STOCK.name,
            unit="jobs",
            better="less",
            target=at_most(0),
        ),
    ]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so many per cent of them don't exceed."""
    ordered = sorted(values)
    rank = -(-len(ordered) * share // 100)
    return ordered[max(0, int(rank) - 1)]


@contextmanager
def _idle_worker(run: Run, peer: Peer, namespace: str) -> Iterator[WorkerProcess]:
    task = Task(peer=peer, url=run.url, namespace=namespace, until="told")
    with WorkerProcess(task) as worker:
        worker.wait_ready()
        worker.go()
        yield worker
    run.clean()


def _send_one_by_one(run: Run, peer: Peer, jobs: int) -> list[float]:
    namespace, random = run.namespace(), Random(0)
    waits = []
    with _idle_worker(run, peer, namespace) as worker:
        broker = peer.build(run.url, namespace)
        start = declare_start(broker)
        for number in range(WARM_UP + jobs):
            sent_ns = time.monotonic_ns()
            start.send(number)
            waits.append((worker.started().monotonic_ns - sent_ns) / 1e6)
            time.sleep(random.uniform(*PAUSE_MS) / 1000)
        broker.close()
    return waits[WARM_UP:]


def _schedule_ahead(run: Run, peer: Peer, jobs: int, found: Lateness) -> None:
    namespace, random = run.namespace(), Random(0)
    due_ms: dict[int, float] = {}
    with _idle_worker(run, peer, namespace) as worker:
        broker = peer.build(run.url, namespace)
        start = declare_start(broker)
        for number in range(WARM_UP):
            start.send(-1 - number)
            worker.started()
        # In any order: each may have to be noticed before the one a worker waits for.
        for number in random.sample(range(jobs), jobs):
            delay = LEAD_MS + number * SPACING_MS + random.randrange(SPACING_MS)
            # A delay is whole milliseconds, and so is the clock it counts from.
            due_ms[number] = time.time_ns() // 1_000_000 + delay
            start.send_with_options(args=(number,), delay=delay)
        for _ in range(jobs):
            started = worker.started()
            late = started.wall_ns / 1e6 - due_ms[started.number]
            found.late.append(late)
            found.early += late < 0
        broker.close()


def _figure(
    name: str,
    title: str,
    share: int,
    ours: Sequence[float],
    stock: Sequence[float],
    target: Target | None = None,
) -> Figure:
    return Figure(
        name=f"{name}-p{share}",
        title=f"{title}, p{share}",
        ours=percentile(ours, share),
        peer=percentile(stock, share),
        peer_name=STOCK.name,
        unit="ms",
        better="less",
        target=target,
    )
