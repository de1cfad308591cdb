"""One run: enqueue the waves, wait for each, gather the evidence."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from math import inf
from pathlib import Path

from bench.demo.control import Control
from bench.demo.evidence import Evidence, read_deaths, read_entries, read_leftovers
from bench.demo.flows import Flows
from bench.demo.jobs import FIRED
from bench.demo.journal import JournalReader
from bench.demo.report import Display, Progress
from bench.demo.stage import Stage
from bench.demo.workers import PROCESSES
from bench.demo.workload import Job, Workload

LOOK_EVERY_S = 0.1
CONTROL_S = 15.0
"""How long each step of the controlled jobs may take: one that fails leaves the others time."""
FLOWS_S = 40.0
"""The same of the flows, of which one step waits for a worker's restart."""


class WorkersGone(Exception):
    """The workers could not be kept running."""


class Run:
    """Drives the workload through the workers. Its evidence grows while it runs."""

    def __init__(
        self,
        workload: Workload,
        control: Control,
        flows: Flows,
        stage: Stage,
        display: Display,
        *,
        folder: Path,
        timeout_s: float,
    ) -> None:
        self._workload = workload
        self._control = control
        self._flows = flows
        self._stage = stage
        self._brokers = stage.brokers
        self._workers = stage.workers
        self._display = display
        self._journal = JournalReader(folder / "journal.jsonl")
        self._started_s = time.monotonic()
        self._deadline_s = self._started_s + timeout_s
        self._pause = threading.Event()  # never set: a wait that signals interrupt
        self._dead: set[str] = set()
        self.evidence = Evidence(folder / "storage")

    @property
    def elapsed_s(self) -> float:
        """Seconds since this was made."""
        return time.monotonic() - self._started_s

    def drive(self) -> None:
        """Enqueue everything and wait for it, at most for the time-out.

        What is missing then is for the verifier to name.

        Raises:
          WorkersGone: the workers ended for good, as when an import fails.
        """
        self._wait("starting workers", lambda: self.evidence.history.booted(0) >= PROCESSES)
        work = self._workload
        self._enqueue(work.work)
        self._wait("notifications, images, delayed jobs", lambda: self._ended(work.work))
        self._prioritised()
        self._control.drive(
            self._brokers,
            self.evidence.storage,
            self.evidence.history,
            partial(self._wait, at_most_s=CONTROL_S),
        )
        self._flows.drive(
            self._brokers,
            self.evidence.storage,
            self.evidence.history,
            lambda: self._workers.died_at_ms,
            partial(self._wait, at_most_s=FLOWS_S),
        )
        # Nothing that it fires is to be left at the end.
        self._wait("a fire of the scheduler", self._fired, at_most_s=CONTROL_S)
        self._stage.scheduler.stop()
        self._enqueue(work.killers)
        self._enqueue(work.neighbours)
        last = [*work.killers, *work.neighbours]
        self._wait("a job that kills its worker", lambda: self._ended(last))
        # While Dramatiq's main process ends because a worker was killed, a request to stop
        # is the workers' second one: they would die of it.
        self._wait("the last restart", self._restarted)

    def gather(self) -> Evidence:
        """Everything that is there, once the workers have stopped."""
        evidence, expected = self.evidence, self._workload.expected
        evidence.history.add(self._journal.read())
        evidence.mails = self._stage.mails.mails
        evidence.pushes = self._stage.pushes.pushes
        evidence.entries = read_entries(
            self._brokers.operator, (each.user_id for each in expected.entries)
        )
        evidence.deaths = read_deaths(self._brokers.viewer)
        evidence.leftovers = read_leftovers(self._brokers.viewer)
        return evidence

    def _prioritised(self) -> None:
        """Enqueued while the queue is paused, so that all compete for the same start."""
        jobs = self._workload.prioritised
        queue = jobs[0].message.queue_name
        self._brokers.operator.inspector.pause(queue)
        try:
            self._enqueue(jobs)
        finally:
            self._brokers.operator.inspector.resume(queue)
        self._wait("prioritised jobs", lambda: self._ended(jobs))

    def _enqueue(self, jobs: Iterable[Job]) -> None:
        at_once = [job for job in jobs if job.delay_ms is None]
        # Before the call, so that no wait comes out too short and no delay too long.
        now_ms = time.time_ns() // 1_000_000
        self._brokers.producer.enqueue_many([job.message for job in at_once])
        for job in at_once:
            self.evidence.due_ms[job.id] = now_ms
        for job in jobs:
            if job.delay_ms is not None:
                now_ms = time.time_ns() // 1_000_000
                self._brokers.producer.enqueue(job.message, delay=job.delay_ms)
                self.evidence.due_ms[job.id] = now_ms + job.delay_ms

    def _ended(self, jobs: Iterable[Job]) -> bool:
        history = self.evidence.history
        return all(job.id in self._dead or history.done(job.id) for job in jobs)

    def _fired(self) -> bool:
        history = self.evidence.history
        return any(history.noted_ms(id, FIRED) for id in history.notes)

    def _restarted(self) -> bool:
        """Whether the workers ended after the last killer's run, and are back.

        One that is asked to stop before it is ready knows no other way than to die.
        """
        kills = self.evidence.history.kills(job.id for job in self._workload.killers)
        died_at_ms = self._workers.died_at_ms
        return (
            died_at_ms >= max(kills.values(), default=0)
            and self.evidence.history.booted(died_at_ms) >= PROCESSES
        )

    def _wait(self, step: str, holds: Callable[[], bool], at_most_s: float = inf) -> None:
        deadline_s = min(self._deadline_s, time.monotonic() + at_most_s)
        while time.monotonic() < deadline_s:
            self.evidence.history.add(self._journal.read())
            self._dead = {death.message_id for death in read_deaths(self._brokers.viewer)}
            self._display.show(self._progress(step))
            if holds():
                return
            if not self._workers.running:
                raise WorkersGone("the workers ended for good")
            self._pause.wait(LOOK_EVERY_S)

    def _progress(self, step: str) -> Progress:
        jobs = list(self._workload.jobs)
        return Progress(
            step=step,
            done=sum(self.evidence.history.done(job.id) for job in jobs),
            dead=len(self._dead),
            total=len(jobs),
            mails=len(self._stage.mails.mails),
            pushes=len(self._stage.pushes.pushes),
            worker_deaths=len(self._workers.deaths),
            elapsed_s=self.elapsed_s,
        )
