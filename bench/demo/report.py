"""What the demo shows: progress while it runs, a table a queue at the end."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bench.demo.checks import Check
from bench.demo.evidence import Evidence
from bench.demo.verify import Verdict
from bench.demo.workload import Workload

PLAIN_LINE_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Progress:
    """One moment of the run."""

    step: str
    done: int
    dead: int
    total: int
    mails: int
    pushes: int
    worker_deaths: int
    elapsed_s: float

    def line(self) -> str:
        """The moment in one line."""
        deaths = f", {self.worker_deaths} workers killed" if self.worker_deaths else ""
        return (
            f"[{self.elapsed_s:5.1f} s] {self.step}: {self.done} of {self.total} jobs done, "
            f"{self.dead} dead; {self.mails} mails, {self.pushes} pushes{deaths}"
        )


class Display:
    """One line that is rewritten on a terminal, a line every other second elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._last_s = float("-inf")
        self._last_step = ""

    @contextmanager
    def running(self) -> Iterator[None]:
        """While inside, `show` shows."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=8, transient=True) as self._live:
            yield
        self._live = None

    def show(self, progress: Progress) -> None:
        """Show this moment, or skip it if the last one is fresh enough."""
        if self._live is not None:
            self._live.update(Text(progress.line()))
            return
        now_s = time.monotonic()
        if progress.step != self._last_step or now_s - self._last_s >= PLAIN_LINE_EVERY_S:
            self._last_s, self._last_step = now_s, progress.step
            self._console.print(progress.line(), highlight=False, markup=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class QueueSummary:
    """What happened on one queue; None where nothing was measured."""

    queue: str
    jobs: int
    done: int
    retried: int
    """Executions that failed and were repeated."""
    redelivered: int
    """Executions that never came back (killed worker) or were handed back, and were repeated."""
    dead: int
    jobs_per_s: float | None
    wait_p50_ms: int | None
    wait_p99_ms: int | None


def summarise(workload: Workload, evidence: Evidence) -> list[QueueSummary]:
    """One summary a queue, all of it counted or measured in the workers.

    Throughput: the first wave's jobs that had no delay and were done, over the time
    from their first start to their last end. Wait: from when a job was enqueued, or due
    if delayed, to its first start; the killer and its neighbours are left out, since they
    wait for restarts.
    """
    by_queue: dict[str, list[str]] = defaultdict(list)
    for job in workload.jobs:
        by_queue[job.message.queue_name].append(job.id)
    steady = {job.id for job in (*workload.work, *workload.prioritised)}
    burst = {job.id for job in workload.work if job.delay_ms is None}
    return [_summary(name, ids, steady, burst, evidence) for name, ids in sorted(by_queue.items())]


def _summary(
    queue: str, ids: list[str], steady: set[str], burst: set[str], evidence: Evidence
) -> QueueSummary:
    history = evidence.history
    dead = {death.message_id: death for death in evidence.deaths if death.queue == queue}
    retried = redelivered = 0
    for message_id in ids:
        repeats = max(0, len(history.starts.get(message_id, ())) - 1)
        retries = min(repeats, history.failures(message_id))
        retried += retries
        redelivered += repeats - retries
    waits = sorted(
        started_ms - evidence.due_ms[message_id]
        for message_id in ids
        if message_id in steady
        and message_id in evidence.due_ms
        and (started_ms := history.first_start_ms(message_id)) is not None
    )
    return QueueSummary(
        queue=queue,
        jobs=len(ids),
        done=sum(history.done(message_id) for message_id in ids),
        retried=retried,
        redelivered=redelivered,
        dead=len(dead),
        jobs_per_s=_throughput([each for each in ids if each in burst], evidence),
        wait_p50_ms=percentile(waits, 50),
        wait_p99_ms=percentile(waits, 99),
    )


def _throughput(ids: list[str], evidence: Evidence) -> float | None:
    history = evidence.history
    done = [each for each in ids if history.done(each)]
    if len(done) < 2:
        return None
    first_ms = min(history.starts[each][0].at_ms for each in done)
    last_ms = max(history.ends[each][-1].at_ms for each in done)
    return len(done) / ((last_ms - first_ms) / 1_000) if last_ms > first_ms else None


def percentile(ordered: list[int], percent: int) -> int | None:
    """The nearest-rank percentile of sorted values; None of none."""
    if not ordered:
        return None
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)]


def show_summary(
    console: Console,
    workload: Workload,
    evidence: Evidence,
    verdict: Verdict,
    checks: list[Check],
    *,
    worker_deaths: int,
    elapsed_s: float,
) -> None:
    """The table, a line for each check, what else is worth knowing, and every fault by name."""
    table = Table(title="Queues", title_justify="left", box=None, pad_edge=False)
    table.add_column("queue", no_wrap=True)
    for name in ("jobs", "done", "retried", "again", "dead", "jobs/s", "wait p50", "p99"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in summarise(workload, evidence):
        table.add_row(
            row.queue,
            *map(str, (row.jobs, row.done, row.retried, row.redelivered, row.dead)),
            "-" if row.jobs_per_s is None else f"{row.jobs_per_s:.1f}",
            *(("-" if ms is None else f"{ms} ms") for ms in (row.wait_p50_ms, row.wait_p99_ms)),
        )
    console.print(table)
    for line in (*_notes(workload, evidence, verdict, worker_deaths), *map(str, checks)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    _show_verdict(console, verdict, len(checks), elapsed_s)


def _notes(
    workload: Workload, evidence: Evidence, verdict: Verdict, worker_deaths: int
) -> Iterator[str]:
    yield (
        "jobs/s: first wave, first start to last end. wait: enqueued (or due) to first start, "
        "without the last wave, which waits for restarts. again: delivered again after a crash."
    )
    late = [
        started_ms - evidence.due_ms[job.id]
        for job in workload.jobs
        if job.delay_ms is not None
        and job.id in evidence.due_ms
        and (started_ms := evidence.history.first_start_ms(job.id)) is not None
    ]
    if late:
        yield f"delayed: {len(late)} jobs started {min(late)} to {max(late)} ms after their time"
    yield (
        f"prioritised: {len(workload.prioritised)} jobs, {verdict.inverted:.0%} of the pairs "
        "started in the wrong order (a half without priorities)"
    )
    for death in evidence.deaths:
        yield f"dead: {death.queue}, {death.reason} after {death.deliveries} deliveries. " + (
            death.error.strip().splitlines()[-1] if death.error.strip() else ""
        )
    yield (
        f"killed: the workers were killed and started again {worker_deaths} times; "
        f"{verdict.duplicates} effects came twice, all of jobs that a killed worker was at"
    )


def _show_verdict(console: Console, verdict: Verdict, checks: int, elapsed_s: float) -> None:
    if not verdict.faults:
        console.print(
            f"Verified: all {verdict.effects} effects are there, all {checks} checks hold. "
            f"{elapsed_s:.1f} s.",
            style="green",
        )
        return
    console.print(f"Failed: {len(verdict.faults)} faults. {elapsed_s:.1f} s.", style="bold red")
    for fault in verdict.faults:
        console.print(f"  {fault}", highlight=False, markup=False, soft_wrap=True)
