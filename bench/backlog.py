"""A backlog of a million: whether it slows the queue down, and whether its memory comes back."""

from __future__ import annotations

import time
from collections import defaultdict
from statistics import median

import redis

from bench.figure import Figure, Target, at_least
from bench.memory import used
from bench.peers import HEADRACE
from bench.processes import WorkerProcess
from bench.run import Run
from bench.worker import Task
from broker.retention import Retention

#: What is drained of either backlog, and all there is in the small one.
SMALL = 10_000
#: Bytes of each drained job that the server may keep and still be back where it was.
LEFT = 1
#: Keys of a queue beside its records, and more.
KEYS = 50


def backlog(run: Run) -> list[Figure]:
    """Drain a part of a large backlog and a small one in turns, then the rest of the large."""
    large, small = run.namespace(), run.namespace()
    small_jobs = min(SMALL, run.size.jobs)
    for namespace in (large, small):  # what a queue keeps for good is there before
        run.fill(HEADRACE, namespace, 2 * small_jobs)
        _drain_rest(run, namespace)
    before = _forgotten(run)
    run.fill(HEADRACE, large, run.size.backlog)
    run.say(f"{run.size.backlog:,} jobs queued: {(used(run) - before) / 1e6:,.0f} MB")
    rates: dict[str, list[float]] = defaultdict(list)
    for case in run.in_turns(["small", "large"]):
        if case == "small":
            run.fill(HEADRACE, small, small_jobs)
        rates[case].append(_drain_some(run, large if case == "large" else small, small_jobs))
        run.say(f"{case} backlog: {rates[case][-1]:,.0f} jobs/s")
    _drain_rest(run, large)
    after = _forgotten(run)
    run.clean()
    return [
        Figure(
            name="drain-backlog",
            title=f"drain with {run.size.backlog:,} queued",
            ours=median(rates["large"]),
            peer=median(rates["small"]),
            peer_name=f"Headrace, {small_jobs:,} queued",
            unit="jobs/s",
            target=at_least(0.9),
        ),
        Figure(
            name="memory-after-drain",
            title=f"memory left after draining {run.size.backlog:,}",
            ours=max(0, after - before) / run.size.backlog,
            peer=None,
            peer_name="before",
            unit="bytes/job",
            better="less",
            target=Target("ours", "≤", LEFT),
        ),
    ]


def _forgotten(run: Run) -> int:
    """The memory once only the records are left that stay for good, or the time for that is over.

    The others of finished jobs stay for a minute, and the server expires a million of them step
    by step.
    """
    enough = 2 * ((Retention().completed.count or 0) + KEYS)
    begin = time.monotonic()
    with redis.Redis.from_url(run.url) as client:
        while client.dbsize() > enough and time.monotonic() - begin < run.size.forget_s:
            time.sleep(min(1, run.size.forget_s))
    now = used(run)
    run.say(f"{now / 1e6:,.1f} MB {time.monotonic() - begin:.0f} s after the drain")
    return now


def _drain_some(run: Run, namespace: str, jobs: int) -> float:
    """Jobs a second over the first so many."""
    task = Task(peer=HEADRACE, url=run.url, namespace=namespace, until="ran", jobs=jobs)
    with WorkerProcess(task) as worker:
        worker.wait_ready()
        worker.go()
        done = worker.drained()
        worker.stop()
    return jobs / (done.end - done.begin)


def _drain_rest(run: Run, namespace: str) -> None:
    task = Task(peer=HEADRACE, url=run.url, namespace=namespace, until="empty")
    with WorkerProcess(task) as worker:
        worker.wait_ready()
        worker.go()
        worker.drained()
        worker.stop()
