"""`headrace stats`: a live screen of all queues."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Final

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from broker.cli.application import broker_of
from broker.cli.output import AsJson, console, emit, lasting, printable
from broker.cli.queues import marks
from broker.inspector import Inspector
from broker.operator_commands import QueueInfo
from broker.server import ServerMemory
from broker.traffic import QueueTraffic
from broker.workers import WorkerInfo

app: Final = typer.Typer(add_completion=False)

_SEEN_LATELY_MS: Final = 60_000
_LONGEST_WAIT_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class QueueStats:
    """One queue, and what went in and out of it each second since the look before."""

    queue: QueueInfo
    in_per_s: float
    out_per_s: float


@dataclass(frozen=True, slots=True)
class Stats:
    """All queues at one moment."""

    at_ms: int
    queues: list[QueueStats]
    workers: list[WorkerInfo]
    servers: list[ServerMemory]


@app.command("stats")
def stats(
    ctx: typer.Context,
    every: Annotated[
        int, typer.Option(min=100, max=_LONGEST_WAIT_MS, help="Ms between two looks.")
    ] = 1_000,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many looks.")] = None,
    as_json: AsJson = False,
) -> None:
    """Watch depth, rates, waits and workers, until Ctrl-C."""
    looks = _looks(broker_of(ctx).inspector, every / 1_000, count)
    if as_json:
        for look in looks:
            emit(look)
        return
    with Live(console=console(), auto_refresh=False) as screen:
        for look in looks:
            screen.update(_screen(look), refresh=True)


def _looks(inspector: Inspector, every_s: float, count: int | None) -> Iterator[Stats]:
    before: dict[str, QueueTraffic] = {}
    since = time.monotonic()
    number = 0
    while count is None or number < count:
        number += 1
        names = inspector.queues()
        traffic = {name: inspector.traffic(name) for name in names}
        now = time.monotonic()
        rows = [
            _rates(inspector.queue(name), before.get(name), traffic[name], now - since)
            for name in names
        ]
        yield Stats(time.time_ns() // 1_000_000, rows, inspector.workers(), inspector.servers())
        before, since = traffic, now
        if number != count:
            time.sleep(every_s)


def _rates(
    info: QueueInfo, before: QueueTraffic | None, now: QueueTraffic, seconds: float
) -> QueueStats:
    if before is None:
        return QueueStats(info, 0.0, 0.0)
    came, went = now.entered - before.entered, now.left - before.left
    return QueueStats(info, max(0.0, came / seconds), max(0.0, went / seconds))


def _screen(look: Stats) -> Table:
    live = [worker for worker in look.workers if worker.idle_ms < _SEEN_LATELY_MS]
    busy = sum(sum(worker.in_flight.values()) for worker in live)
    memory = ", ".join(f"{server.used / 1e6:.1f} MB" for server in look.servers)
    table = Table(
        title=f"{len(live)} workers, {busy} jobs in flight; server memory {memory}",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("queue", overflow="fold")
    for column in ("ready", "scheduled", "in flight", "dead", "in/s", "out/s", "oldest"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    for row in look.queues:
        info = row.queue
        counts = (info.ready, info.scheduled, info.in_flight, info.dead)
        rates = (f"{row.in_per_s:.1f}", f"{row.out_per_s:.1f}", lasting(info.oldest_age_ms))
        cells = (*map(str, counts), *rates, marks(info))
        table.add_row(Text(printable(info.name)), *cells)
    return table
