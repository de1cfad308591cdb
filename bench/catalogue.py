"""The measurements by name, in the order they are taken."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from bench.backlog import backlog
from bench.drain import drain, processes
from bench.enqueue import enqueue
from bench.figure import Figure
from bench.flows import flows, joins
from bench.idle import idle
from bench.intake import intake
from bench.latency import latency, schedule
from bench.memory import memory
from bench.middleware import middleware, records
from bench.run import Run
from bench.telemetry import telemetry

MEASUREMENTS: Mapping[str, Callable[[Run], list[Figure]]] = {
    "drain": drain,
    "processes": processes,
    "records": records,
    "middleware": middleware,
    "telemetry": telemetry,
    "enqueue": enqueue,
    "intake": intake,
    "flows": flows,
    "joins": joins,
    "latency": latency,
    "schedule": schedule,
    "idle": idle,
    "memory": memory,
    "backlog": backlog,
}
#: Takes minutes: left out by `--short`.
SLOW = frozenset({"backlog"})


def chosen(only: Collection[str], *, short: bool) -> list[str]:
    """The names of what a run measures: everything, if it is not told otherwise."""
    return [
        name for name in MEASUREMENTS if (name in only if only else not short or name not in SLOW)
    ]
