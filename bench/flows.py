"""How fast flows go on, beside Dramatiq's own pipelines and groups with results in Redis."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from statistics import median
from typing import Any, Final

from dramatiq import Message, group, pipeline

from bench.figure import Figure, at_most, at_most_times, steps_a_second
from bench.memory import used
from bench.peers import HEADRACE, STOCK, AnyBroker, Peer, declare_step
from bench.processes import MeasurementFailed, WorkerProcess
from bench.run import Run
from bench.worker import Task
from broker import StreamsBroker
from pipelines import flows as headrace
from pipelines.flow import chain

OURS: Final = HEADRACE.handing_on()
THEIRS: Final = STOCK.handing_on()
#: Steps of one chain.
LENGTH: Final = 3
#: Branches of one join.
BRANCHES: Final = 1_000
#: Branches of a join that counts as a large one, by the jobs of a run.
LARGE: Final = 0.5

#: Starts one flow, given the broker, the message of a step, and a size.
Begin = Callable[[AnyBroker, Callable[[], Message[Any]], int], None]


def flows(run: Run) -> list[Figure]:
    """Chains of three steps, and a join of many branches, each the first result to the last."""
    chains, groups = max(1, run.size.jobs // LENGTH), max(1, run.size.jobs // BRANCHES)
    branches = min(BRANCHES, run.size.jobs)
    rates: dict[tuple[str, Peer], list[float]] = defaultdict(list)
    for shape, peer in run.in_turns([(s, p) for s in ("chain", "join") for p in (OURS, THEIRS)]):
        if shape == "chain":
            rate = _rate(run, peer, _begin_chain, chains, LENGTH, steps=LENGTH * chains)
        else:
            rate = _rate(run, peer, _begin_join, groups, branches, steps=(branches + 1) * groups)
        rates[shape, peer].append(rate)
        run.say(f"{shape}, {peer.name}: {rate:,.0f} steps/s")
    title = f"join of {BRANCHES:,} branches"
    chain_peer, join_peer = "RedisBroker, pipeline", "RedisBroker, group"
    ours, theirs = (median(rates["chain", peer]) for peer in (OURS, THEIRS))
    joined, grouped = (median(rates["join", peer]) for peer in (OURS, THEIRS))
    return [
        steps_a_second("flow-chain", "chain of 3 steps", ours, theirs, chain_peer),
        steps_a_second("flow-join", title, joined, grouped, join_peer),
    ]


def joins(run: Run) -> list[Figure]:
    """A join of ten thousand branches: how long it takes, and what a branch costs the server."""
    branches = max(2, int(run.size.jobs * LARGE))
    seconds, sizes, plain = [], [], []
    for _ in range(run.size.rounds):
        plain.append(_bytes_a_job(run, branches))
        _fill(run, OURS, run.namespace(), _begin_join, 1, branches)  # what a first one takes
        before = used(run)
        namespace = run.namespace()
        _fill(run, OURS, namespace, _begin_join, 1, branches)
        sizes.append((used(run) - before) / branches)
        seconds.append(_drain(run, OURS, namespace, branches + 1))
        run.clean()
        run.say(f"join of {branches:,}: {seconds[-1]:.2f} s, {sizes[-1]:.0f} bytes a branch")
    return [
        Figure(
            name="flow-join-large",
            title=f"join of {branches:,} branches, all of it",
            ours=median(seconds),
            peer=None,
            peer_name="",
            unit="s",
            better="less",
            target=at_most(10),
        ),
        Figure(
            name="flow-bytes-per-branch",
            title="server memory of a branch that waits",
            ours=median(sizes),
            peer=median(plain),
            peer_name="Headrace, a queued job",
            unit="bytes",
            better="less",
            target=at_most_times(2.5),
        ),
    ]


def _rate(run: Run, peer: Peer, begin: Begin, count: int, size: int, *, steps: int) -> float:
    namespace = run.namespace()
    _fill(run, peer, namespace, begin, count, size)
    seconds = _drain(run, peer, namespace, steps)
    run.clean()
    return steps / seconds


def _fill(run: Run, peer: Peer, namespace: str, begin: Begin, count: int, size: int) -> None:
    broker = peer.build(run.url, namespace)
    step = declare_step(broker, peer)
    for _ in range(count):
        begin(broker, step.message_with_options, size)
    broker.close()


def _begin_chain(broker: AnyBroker, message: Callable[[], Message[Any]], size: int) -> None:
    messages = [message() for _ in range(size)]
    if isinstance(broker, StreamsBroker):
        headrace.start(chain("chain", *messages), broker=broker)
    else:
        pipeline(messages, broker=broker).run()


def _begin_join(broker: AnyBroker, message: Callable[[], Message[Any]], size: int) -> None:
    messages = [message() for _ in range(size)]
    if isinstance(broker, StreamsBroker):
        headrace.start(chain("join", messages, message()), broker=broker)
    else:
        members = group(messages, broker=broker)
        members.add_completion_callback(message())
        members.run()


def _drain(run: Run, peer: Peer, namespace: str, steps: int) -> float:
    """Seconds from the start of a worker until all steps have run and the queue is empty."""
    task = Task(peer=peer, url=run.url, namespace=namespace, until="empty", jobs=steps)
    with WorkerProcess(task) as worker:
        worker.wait_ready()
        worker.go()
        drained = worker.drained()
    if drained.ran < steps:
        raise MeasurementFailed(f"{peer.name} ran {drained.ran} of {steps} steps")
    return drained.end - drained.begin


def _bytes_a_job(run: Run, jobs: int) -> float:
    """Of a queue that has some already."""
    namespace = run.namespace()
    run.fill(HEADRACE, namespace, jobs)
    before = used(run)
    run.fill(HEADRACE, namespace, jobs)
    size = (used(run) - before) / jobs
    run.clean()
    return size
