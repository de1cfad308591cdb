"""What the records and each middleware cost, and how fast it all is together."""

from __future__ import annotations

from collections import defaultdict
from statistics import median

from bench import stacks
from bench.drain import Drain, drained
from bench.figure import Figure, at_least, jobs_a_second
from bench.peers import HEADRACE, STOCK, Peer
from bench.run import Run


def records(run: Run) -> list[Figure]:
    """With records and events against without, Dramatiq's default middleware."""
    done: dict[Peer, list[float]] = defaultdict(list)
    bare = HEADRACE.without_records()
    for peer in run.in_turns([HEADRACE, bare]):
        done[peer].append(drained(run, peer, processes=1, known=True).jobs_s)
        run.say(f"{'with' if peer.records else 'without'} records: {done[peer][-1]:,.0f} jobs/s")
    return [
        Figure(
            name="drain-records",
            title="drain with records",
            ours=median(done[HEADRACE]),
            peer=median(done[bare]),
            peer_name="Headrace, records=False",
            unit="jobs/s",
            target=at_least(0.8),
        )
    ]


def middleware(run: Run) -> list[Figure]:
    """The application's whole list against RedisBroker's default, and each of it alone."""
    none, production = HEADRACE.without_middleware(), HEADRACE.with_middleware("production")
    alone = {name: HEADRACE.with_middleware(name) for name in stacks.names()[: run.size.alone]}
    done: dict[Peer, list[Drain]] = defaultdict(list)
    for peer in run.in_turns([none, production, STOCK, *alone.values()]):
        done[peer].append(drained(run, peer, processes=1, known=True))
        run.say(f"{peer.name}, {peer.middleware}: {done[peer][-1].jobs_s:,.0f} jobs/s")
    rate = {peer: median(drain.jobs_s for drain in drains) for peer, drains in done.items()}
    cpu = {peer: median(drain.cpu_us for drain in drains) for peer, drains in done.items()}
    title = "drain, whole production list"
    ours, stock = rate[production], rate[STOCK]
    return [
        jobs_a_second("drain-production", title, ours, stock, STOCK.name, 2.5),
        *(_cost(name, cpu[peer] - cpu[none]) for name, peer in alone.items()),
    ]


def _cost(name: str, cpu_us: float) -> Figure:
    return Figure(
        name=f"cost-{name}",
        title=f"worker's CPU a job for {name}",
        ours=max(0.0, cpu_us),
        peer=None,
        peer_name="",
        unit="µs",
        better="less",
    )
