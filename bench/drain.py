"""How fast jobs that do nothing are drained: by one process, and by two."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from bench.figure import Figure, jobs_a_second
from bench.peers import HEADRACE, STOCK, STUB, TUNED, Peer
from bench.processes import MeasurementFailed, WorkerProcess, produce
from bench.producer import Task as ProducerTask
from bench.run import Run
from bench.worker import Task

BARE = "ceiling: bare stream"


@dataclass(frozen=True, slots=True)
class Drain:
    """One drain by one or more processes."""

    jobs_s: float
    #: CPU time of the workers' processes a job, in microseconds.
    cpu_us: float
    #: The largest peak of a worker's process, in MB.
    peak_mb: float
    #: CPU time that a process's boot took before, in milliseconds.
    boot_ms: float


def drain(run: Run) -> list[Figure]:
    """One process with eight threads, with Dramatiq's default middleware and with none."""
    cases = [HEADRACE, STOCK, TUNED, STUB]
    bare = [peer.without_middleware() for peer in (HEADRACE, STOCK, STUB)]
    done: dict[Peer, list[Drain]] = defaultdict(list)
    floor: list[float] = []
    for peer in run.in_turns([*cases, *bare, None]):
        if peer is None:
            floor.append(_read_bare_stream(run))
            run.say(f"{BARE}: {floor[-1]:,.0f} entries/s")
            continue
        done[peer].append(drained(run, peer, processes=1, known=True))
        run.say(f"{peer.name}, {peer.middleware} middleware: {done[peer][-1].jobs_s:,.0f} jobs/s")
    ours, stock, tuned, stub, ours_none, stock_none, stub_none = (
        typical(done[peer]) for peer in (*cases, *bare)
    )
    rate, rate_none = ours.jobs_s, ours_none.jobs_s
    default, none = "drain, default middleware", "drain, no middleware"
    return [
        jobs_a_second("drain-default", default, rate, stock.jobs_s, STOCK.name, 5),
        jobs_a_second("drain-default-tuned", default, rate, tuned.jobs_s, TUNED.name, 2.5),
        jobs_a_second("drain-default-memory", default, rate, stub.jobs_s, STUB.name),
        jobs_a_second("drain-none", none, rate_none, stock_none.jobs_s, STOCK.name, 6),
        jobs_a_second("drain-none-memory", none, rate_none, stub_none.jobs_s, STUB.name),
        jobs_a_second("drain-none-bare", none, rate_none, median(floor), BARE),
        cpu("cpu-default", "worker's CPU a job, default middleware", ours, stock, STOCK.name),
        cpu("cpu-none", "worker's CPU a job, no middleware", ours_none, stock_none, STOCK.name),
    ]


def processes(run: Run) -> list[Figure]:
    """Two worker processes of ours against one, on the cores that the server shares."""
    done: dict[int, list[Drain]] = defaultdict(list)
    for count in run.in_turns([1, 2]):
        done[count].append(drained(run, HEADRACE, processes=count, known=False))
        run.say(f"processes {count}: {done[count][-1].jobs_s:,.0f} jobs/s")
    one, two = typical(done[1]).jobs_s, typical(done[2]).jobs_s
    title = "drain by two processes"
    return [jobs_a_second("drain-two-processes", title, two, one, "Headrace, one process", 1.4)]


def drained(
    run: Run, peer: Peer, *, processes: int, known: bool, one_by_one: bool = False
) -> Drain:
    """Fill a queue, then time its workers; `known`: the one process runs all the jobs.

    `one_by_one`: each job is sent by a call of its own, by a process set up as the workers are.
    """
    namespace, jobs = run.namespace(), run.size.jobs
    in_memory = peer.broker == "stub"
    if one_by_one:
        first = 1  # the producer sends one to connect
        produce(
            ProducerTask(
                peer=peer, url=run.url, namespace=namespace, jobs=jobs - first, how="one by one"
            )
        )
    elif not in_memory:
        run.fill(peer, namespace, jobs)
    task = Task(
        peer=peer,
        url=run.url,
        namespace=namespace,
        fill=jobs if in_memory else 0,
        until="empty",
        jobs=jobs if known else None,
    )
    with ExitStack() as stack:
        workers = [stack.enter_context(WorkerProcess(task)) for _ in range(processes)]
        for worker in workers:
            worker.wait_ready()
        for worker in workers:
            worker.go()
        done = [worker.drained() for worker in workers]
    run.clean()
    ran = sum(each.ran for each in done)
    if ran < jobs:
        raise MeasurementFailed(f"{peer.name} ran {ran} of {jobs} jobs")
    seconds = max(each.end for each in done) - min(each.begin for each in done)
    cpu_us = sum(each.cpu for each in done) / jobs * 1e6
    peak_mb, boot_ms = max(each.peak_mb for each in done), max(each.boot_ms for each in done)
    return Drain(jobs / seconds, cpu_us, peak_mb, boot_ms)


def _read_bare_stream(run: Run) -> float:
    jobs = run.size.jobs
    task = ProducerTask(
        peer=HEADRACE, url=run.url, namespace=run.namespace(), jobs=jobs, how="read"
    )
    seconds = produce(task)
    run.clean()
    return jobs / seconds


def typical(drains: list[Drain]) -> Drain:
    """The median of each."""
    return Drain(
        median(each.jobs_s for each in drains),
        median(each.cpu_us for each in drains),
        median(each.peak_mb for each in drains),
        median(each.boot_ms for each in drains),
    )


def cpu(name: str, title: str, ours: Drain, peer: Drain, peer_name: str) -> Figure:
    """CPU time of the workers' processes a job, beside the peer's."""
    return Figure(
        name=name,
        title=title,
        ours=ours.cpu_us,
        peer=peer.cpu_us,
        peer_name=peer_name,
        unit="µs",
        better="less",
    )
