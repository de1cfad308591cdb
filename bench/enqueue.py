"""How fast one producer enqueues, one call a job and many jobs a call."""

from __future__ import annotations

from collections import defaultdict
from statistics import median

from bench.figure import Figure, jobs_a_second
from bench.peers import HEADRACE, STOCK, Peer
from bench.processes import produce
from bench.producer import How, Task
from bench.run import Run


def enqueue(run: Run) -> list[Figure]:
    """Ours and stock's one by one, ours in batches, and what redis-py alone does."""
    jobs = run.size.jobs
    cases = {
        "ours": _task(run, HEADRACE, "one by one"),
        "many": _task(run, HEADRACE, "many"),
        "stock": _task(run, STOCK, "one by one"),
        "xadd": _task(run, HEADRACE, "xadd"),
        "packed": _task(run, HEADRACE, "packed xadd"),
    }
    rates: dict[str, list[float]] = defaultdict(list)
    for name in run.in_turns(list(cases)):
        rates[name].append(jobs / produce(cases[name]))
        run.clean()
        run.say(f"enqueue {name}: {rates[name][-1]:,.0f} jobs/s")
    ours, many, stock, xadd, packed = (median(rates[name]) for name in cases)
    one, batch = "enqueue one by one", "enqueue_many"
    return [
        jobs_a_second("enqueue", one, ours, stock, STOCK.name, 2),
        jobs_a_second("enqueue-many", batch, many, stock, f"{STOCK.name}, one by one", 4),
        jobs_a_second("enqueue-bare", one, ours, xadd, "ceiling: Redis.xadd alone"),
        jobs_a_second("enqueue-packed", one, ours, packed, "ceiling: XADD on a connection"),
    ]


def _task(run: Run, peer: Peer, how: How) -> Task:
    return Task(
        peer=peer,
        url=run.url,
        namespace=run.namespace(),
        jobs=run.size.jobs,
        how=how,
    )
