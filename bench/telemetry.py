"""What tracing and metrics cost a drain, and what a collector that is away or silent does to it."""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from bench.drain import Drain, cpu, drained, typical
from bench.figure import Figure, at_most_times, jobs_a_second
from bench.otlp import Receiver
from bench.peers import HEADRACE
from bench.run import Run

WITHOUT = "Headrace, no telemetry"
ALIVE = "the same, collector alive"


def telemetry(run: Run) -> list[Figure]:
    """Spans of one trace in ten and all metrics over OTLP, around two lists of middleware."""
    one = {name: typical(drains) for name, drains in _drained(run).items()}
    rate = {name: each.jobs_s for name, each in one.items()}
    peak = {name: each.peak_mb for name, each in one.items()}
    title = "drain with telemetry"
    compared = (
        ("drain-telemetry", title, "alive", "without", WITHOUT, 0.75),
        (
            *("drain-telemetry-production", f"{title}, whole production list"),
            *("production, alive", "production, without", WITHOUT, 0.75),
        ),
        ("drain-collector-away", f"{title}, collector away", "away", "alive", ALIVE, 0.97),
        ("drain-collector-silent", f"{title}, collector silent", "silent", "alive", ALIVE, 0.97),
    )
    return [
        *(
            jobs_a_second(name, told, rate[ours], rate[other], other_name, times)
            for name, told, ours, other, other_name, times in compared
        ),
        cpu(
            "cpu-telemetry", "worker's CPU a job, telemetry", one["alive"], one["without"], WITHOUT
        ),
        Figure(
            name="boot-telemetry",
            title="CPU of a process's boot, telemetry",
            ours=one["alive"].boot_ms,
            peer=one["without"].boot_ms,
            peer_name=WITHOUT,
            unit="ms",
            better="less",
        ),
        Figure(
            name="memory-collector-away",
            title="worker's peak memory, collector away",
            ours=peak["away"],
            peer=peak["alive"],
            peer_name=ALIVE,
            unit="MB",
            better="less",
            target=at_most_times(1.05),
        ),
    ]


def _drained(run: Run) -> dict[str, list[Drain]]:
    with ExitStack() as stack:
        receiver = stack.enter_context(Receiver("grpc"))
        silent = stack.enter_context(_silent())
        production = HEADRACE.with_middleware("production")
        cases = {
            "without": HEADRACE,
            "alive": HEADRACE.with_collector(receiver.url),
            "away": HEADRACE.with_collector("http://127.0.0.1:1"),
            "silent": HEADRACE.with_collector(silent),
            "production, without": production,
            "production, alive": production.with_collector(receiver.url),
        }
        done: dict[str, list[Drain]] = defaultdict(list)
        for name in run.in_turns(list(cases)):
            peer = cases[name]
            done[name].append(drained(run, peer, processes=1, known=True, one_by_one=True))
            run.say(f"telemetry, {name}: {done[name][-1].jobs_s:,.0f} jobs/s")
        return done


@contextmanager
def _silent() -> Iterator[str]:
    """The address of something that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
