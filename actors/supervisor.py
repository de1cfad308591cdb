"""Keep one command running: start it, start it again when it dies, stop it cleanly.

Dramatiq's main process stops all of its workers and exits as soon as one of them dies,
so whatever runs it has to start it again. Under compose or systemd that is their
restart policy; on a developer's machine and in the demo it is this.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO

CLEAN_EXITS = frozenset({0, -signal.SIGTERM})
"""A command that was asked to stop may answer with 0, or die of the SIGTERM itself when
it came before the command had installed its handler."""

KILLED = 1
"""What `Supervisor.run` returns when the command had to be killed (Dramatiq's RET_KILLED)."""

#: How long a killed process may take until it is gone, in seconds; not its own doing.
_GONE_S = 10.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before the next start: doubling, up to a most.

    A life of at least `steady_s` seconds starts the count afresh: a worker that is
    killed once a day comes back at once, one that can't start does not spin.
    """

    first_s: float = 0.2
    most_s: float = 30.0
    steady_s: float = 10.0

    def delay_s(self, short_lives: int) -> float:
        """Seconds to wait after `short_lives` (1 or more) short lives in a row."""
        doublings = min(short_lives - 1, 30)  # past this the float is far above any most_s
        return float(min(self.most_s, self.first_s * 2**doublings))


@dataclass(frozen=True, slots=True)
class Started:
    """The command runs, for the `life`-th time (from 1)."""

    pid: int
    life: int


@dataclass(frozen=True, slots=True)
class Died:
    """The command ended though nobody asked; it starts again in `delay_s` seconds.

    `code` is the exit status, negative for a signal.
    """

    code: int
    life: int
    delay_s: float


Change = Started | Died


@dataclass(frozen=True, slots=True)
class _Ended:
    code: int
    left_killed: bool
    """Whether a process that it left behind had to be killed."""


class _StopAsked:
    """Somebody called `Supervisor.stop`."""


@dataclass(frozen=True, slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    watcher: threading.Thread
    """Ends when the process and all that it started are gone."""


def dramatiq_command(
    *modules: str,
    processes: int | None = None,
    threads: int | None = None,
    shutdown_ms: int = 25_000,
    arguments: Sequence[str] = (),
) -> list[str]:
    """Dramatiq's own command line, by this interpreter, for `modules`.

    `shutdown_ms` is what running jobs get to end when it stops; what has not ended by
    then goes back to its queue. Keep it under the supervisor's `stop_s`. A worker that is
    killed before it has said that it is ready makes Dramatiq's main process wait for it;
    3 s here, and not 30, until it notices.
    `arguments` are handed on as they are.
    """
    command = [
        *(sys.executable, "-m", "dramatiq"),
        "--worker-fork-timeout=3000",
        f"--worker-shutdown-timeout={shutdown_ms}",
    ]
    if processes is not None:
        command += [f"--processes={processes}"]
    if threads is not None:
        command += [f"--threads={threads}"]
    return [*command, *modules, *arguments]  # more modules may only follow the modules


def periodiq_command(*modules: str) -> list[str]:
    """periodiq's own command line, of this interpreter's environment, for ``modules``."""
    return [str(Path(sys.executable).parent / "periodiq"), *modules]


class Supervisor:
    """Runs `command` in a session of its own until `stop` is called.

    A session of its own, so that a Ctrl-C in the terminal reaches only us: Dramatiq's
    main process would otherwise signal workers that the terminal has signalled already,
    and a worker takes the second signal for an order to die at once.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environ: Mapping[str, str] | None = None,
        output: IO[bytes] | None = None,
        backoff: Backoff | None = None,
        stop_s: float = 30.0,
        give_up_on: frozenset[int] = frozenset(),
        on_change: Callable[[Change], None] = lambda change: None,
    ) -> None:
        """Prepare; nothing is started.

        `environ` None inherits ours, `output` None leaves stdout and stderr as they are.
        `stop_s` is what a stopping command gets before SIGKILL. An exit status in
        `give_up_on` means that another start would end the same way.
        `on_change` is called on the thread of `run`.
        """
        self._command = list(command)
        self._environ = None if environ is None else dict(environ)
        self._output = output
        self._backoff = Backoff() if backoff is None else backoff
        self._stop_s = stop_s
        self._give_up_on = give_up_on
        self._on_change = on_change
        # A SimpleQueue, since its put() may be called in a signal handler.
        self._inbox: SimpleQueue[_Ended | _StopAsked] = SimpleQueue()

    def stop(self) -> None:
        """Ask `run` to stop the command; a second call kills it. Safe in a signal handler."""
        self._inbox.put(_StopAsked())

    def run(self) -> int:
        """Keep the command running until `stop`; returns the exit status to pass on.

        0 after a clean stop, `KILLED` if the command had to be killed, its own status if
        that is in `give_up_on` or if it failed while stopping. When this returns (or
        raises) no process of the command is left.
        """
        life, short_lives = 0, 0
        while True:
            if self._stop_asked_within(0):
                return 0
            life += 1
            started = time.monotonic()
            child = self._start()
            try:
                self._on_change(Started(child.process.pid, life))
                message = self._inbox.get()
                if isinstance(message, _StopAsked):
                    return self._stop(child)
            except BaseException:
                self._kill(child)
                raise
            if message.code in self._give_up_on:
                return message.code
            steady = time.monotonic() - started >= self._backoff.steady_s
            short_lives = 1 if steady else short_lives + 1
            delay_s = self._backoff.delay_s(short_lives)
            self._on_change(Died(message.code, life, delay_s))
            if self._stop_asked_within(delay_s):
                return 0

    def _stop_asked_within(self, timeout_s: float) -> bool:
        """No command runs now, so whatever comes into the inbox is a stop."""
        try:
            self._inbox.get(timeout=timeout_s)
        except Empty:
            return False
        return True

    def _start(self) -> _Child:
        # Every process that the command forks inherits the pipe's write end and nobody
        # writes: the read end is at its end when, and only when, the last of them is gone.
        # (One that it executes instead closes the pipe: it is signalled, not waited for.)
        alive_read, alive_write = os.pipe()
        try:
            process = subprocess.Popen(
                self._command,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                start_new_session=True,
                pass_fds=(alive_write,),
            )
        except BaseException:
            os.close(alive_read)
            raise
        finally:
            os.close(alive_write)
        watcher = threading.Thread(
            target=self._watch, args=(process, alive_read), name="supervisor-watch", daemon=True
        )
        watcher.start()
        return _Child(process, watcher)

    def _watch(self, process: subprocess.Popen[bytes], alive: int) -> None:
        code = process.wait()
        left_killed = False
        try:
            left_killed = _end_orphans(process.pid, alive, self._stop_s)
        finally:
            os.close(alive)
            self._inbox.put(_Ended(code, left_killed))

    def _stop(self, child: _Child) -> int:
        # Only the command's first process: Dramatiq's passes the signal on to its workers.
        child.process.terminate()
        try:
            message = self._inbox.get(timeout=self._stop_s)
        except Empty:
            return self._kill(child)
        if isinstance(message, _StopAsked):
            return self._kill(child)
        return KILLED if message.left_killed else _exit_status(message.code)

    def _kill(self, child: _Child) -> int:
        _signal_group(child.process.pid, signal.SIGKILL)
        child.watcher.join()
        return KILLED


class Team:
    """Supervisors that run side by side, and stop when one of them has ended."""

    def __init__(self, *supervisors: Supervisor) -> None:
        self._supervisors = supervisors
        self._stopping = False

    def stop(self) -> None:
        """Stop all; a second call kills them. Safe in a signal handler."""
        self._stopping = True
        for each in self._supervisors:
            each.stop()

    def run(self) -> int:
        """Run until :meth:`stop` or until one ends; the first exit status that is not 0."""
        with ThreadPoolExecutor(len(self._supervisors), "supervisor") as pool:
            running = [pool.submit(each.run) for each in self._supervisors]
            wait(running, return_when=FIRST_COMPLETED)
            if not self._stopping:
                self.stop()
            return next(filter(None, (each.result() for each in running)), 0)


def _exit_status(code: int) -> int:
    """What a shell would make of it: 128 + n for signal n, but see `CLEAN_EXITS`."""
    if code in CLEAN_EXITS:
        return 0
    return code if code > 0 else 128 - code


def _end_orphans(group: int, alive: int, grace_s: float) -> bool:
    """End what the command left behind, as when its main process was killed alone.

    Returns whether it took SIGKILL.
    """
    _signal_group(group, signal.SIGTERM)
    if _ended_within(alive, grace_s):
        return False
    _signal_group(group, signal.SIGKILL)
    _ended_within(alive, _GONE_S)
    return True


def _ended_within(alive: int, timeout_s: float) -> bool:
    readable, _, _ = select.select([alive], [], [], timeout_s)
    return bool(readable)


def _signal_group(group: int, signum: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # all gone (macOS: all zombies)
        os.killpg(group, signum)
