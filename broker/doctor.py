"""What an operator should know about a server and its queues, and what to do about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from broker import server
from broker.commands import Commands
from broker.errors import AuthenticationRefused, ServerRefused
from broker.inspector import Inspector
from broker.scripts import names

_LATE_MS: Final = 60_000
_FULL, _NEARLY_FULL = 0.95, 0.8


class Severity(Enum):
    OK = "ok"
    #: It works, and may not for long, or not after a restart.
    WARNING = "warning"
    #: Jobs are lost or don't run.
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``advice`` is empty where nothing is to be done."""

    check: str
    severity: Severity
    found: str
    advice: str = ""


class Doctor:
    """Looks at the server and every queue, in bounded reads."""

    def __init__(self, commands: Commands, inspector: Inspector, lease_ms: int) -> None:
        self._commands = commands
        self._inspector = inspector
        self._lease_ms = lease_ms

    def examine(self) -> Iterator[Finding]:
        """What was found, check by check.

        A check whose commands the access control denies is a warning.

        Raises:
          BrokerConnectionError: the server can't be reached.
        """
        checks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
            ("server", self._server),
            ("persistence", self._persistence),
            ("memory", self._memory),
            ("clock", self._clock),
            ("scripts", self._scripts),
            ("queues", self._queues),
            ("workers", self._workers),
            ("schedules", self._schedules),
            ("leaks", self._leaks),
        )
        for name, check in checks:
            try:
                yield from check()
            except AuthenticationRefused as error:
                yield Finding(name, Severity.WARNING, str(error), "look with an admin's password")

    def _server(self) -> Iterator[Finding]:
        try:
            server.check(self._commands.client)
        except AuthenticationRefused:
            raise
        except ServerRefused as error:
            advice = "workers refuse to start until this is mended"
            yield Finding("server", Severity.ERROR, str(error), advice)
        for node in server.facts(self._commands.client):
            told = f"{node.name} {node.version}, {node.role}"
            if node.role == "master":
                yield Finding("server", Severity.OK, told)
            else:
                yield Finding("server", Severity.ERROR, told, "REDIS_URL must name the primary")

    def _persistence(self) -> Iterator[Finding]:
        for node in server.facts(self._commands.client):
            if not node.writes_ok:
                advice = "free disk space or mend the permissions: writes are refused meanwhile"
                yield Finding("persistence", Severity.ERROR, "the last write failed", advice)
            elif node.appends:
                yield Finding("persistence", Severity.OK, "append-only file")
            else:
                advice = "set `appendonly yes`: a restart loses what came since the last snapshot"
                yield Finding("persistence", Severity.WARNING, "no append-only file", advice)

    def _memory(self) -> Iterator[Finding]:
        for node in self._inspector.servers():
            used = f"{node.used / 1e6:.1f} MB"
            if not node.limit:
                advice = (
                    "set `maxmemory` below the machine's: a full one then refuses enqueues only"
                )
                yield Finding("memory", Severity.WARNING, f"{used}, no limit", advice)
                continue
            share = node.used / node.limit
            severity = Severity.OK
            if share > _NEARLY_FULL:
                severity = Severity.ERROR if share > _FULL else Severity.WARNING
            advice = "add workers or memory, purge dead letters" if share > _NEARLY_FULL else ""
            told = f"{used} of {node.limit / 1e6:.1f} MB"
            yield Finding("memory", severity, told, advice)

    def _clock(self) -> Iterator[Finding]:
        before = time.time()
        skew_ms = server.time_ms(self._commands.client) - round((before + time.time()) * 500)
        severity = Severity.OK if abs(skew_ms) < _LATE_MS / 60 else Severity.WARNING
        advice = "" if severity is Severity.OK else "run NTP: schedules go by the server's clock"
        yield Finding("clock", severity, f"the server's is {skew_ms:+d} ms from ours", advice)

    def _scripts(self) -> Iterator[Finding]:
        refused = self._commands.refused_scripts()
        if not refused:
            yield Finding("scripts", Severity.OK, f"the server takes all {len(names())}")
        for name, error in refused.items():
            advice = "the server lacks what the script needs: is it an older or another one?"
            yield Finding("scripts", Severity.ERROR, f"{name}: {error}", advice)

    def _queues(self) -> Iterator[Finding]:
        for name in self._inspector.queues():
            info = self._inspector.queue(name)
            told = f"{name}: {info.ready} ready, {info.in_flight} in flight, {info.dead} dead"
            if info.closed:
                advice = f"headrace queues open {name}: producers are refused"
                yield Finding("queues", Severity.WARNING, f"{name} is closed", advice)
            if info.paused:
                advice = f"headrace queues resume {name}"
                yield Finding("queues", Severity.WARNING, f"{told}, paused", advice)
            elif info.ready and not self._inspector.live_consumers(name, self._lease_ms):
                advice = "start a worker that has this queue"
                yield Finding("queues", Severity.ERROR, f"{told}, no worker", advice)
            elif info.dead:
                advice = f"headrace dead ls {name} --groups"
                yield Finding("queues", Severity.WARNING, told, advice)
            else:
                yield Finding("queues", Severity.OK, told)

    def _workers(self) -> Iterator[Finding]:
        workers = self._inspector.workers()
        live = [worker for worker in workers if worker.idle_ms < self._lease_ms]
        yield Finding("workers", Severity.OK, f"{len(live)} heard of within a lease")
        for worker in workers:
            held = sum(worker.in_flight.values())
            if held and worker not in live:
                told = f"{worker.name} is silent for {worker.idle_ms // 1000} s and holds {held}"
                advice = "a live worker takes them over within a lease; if there is none, start one"
                yield Finding("orphans", Severity.WARNING, told, advice)

    def _schedules(self) -> Iterator[Finding]:
        now_ms = server.time_ms(self._commands.client)
        late = [
            info.schedule.name
            for info in self._inspector.schedules.list()
            if not info.paused
            and info.next_fire_ms is not None
            and info.next_fire_ms < now_ms - _LATE_MS
        ]
        if late:
            told = f"overdue: {', '.join(late)}"
            advice = (
                "start a scheduler: periodiq actors; "
                "if the code has it no more: headrace schedules remove NAME"
            )
            yield Finding("schedules", Severity.ERROR, told, advice)
        else:
            yield Finding("schedules", Severity.OK, "none is overdue")

    def _leaks(self) -> Iterator[Finding]:
        found = False
        for name in self._inspector.queues():
            for place, (ids, messages) in self._commands.kept_sizes(name).items():
                if ids != messages:
                    found = True
                    told = f"{name}: {ids} ids and {messages} messages are {place}"
                    advice = "once more in a minute; if it stays, somebody else wrote these keys"
                    yield Finding("leaks", Severity.WARNING, told, advice)
        if not found:
            yield Finding("leaks", Severity.OK, "every id has its message")
