"""The supervisor, over real processes. Nothing sleeps: a pipe, a queue or an exit tells."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue

import pytest

from actors.supervisor import (
    KILLED,
    Backoff,
    Change,
    Died,
    Started,
    Supervisor,
    dramatiq_command,
)

WAIT_S = 20.0
AT_ONCE = Backoff(first_s=0.001, most_s=0.001)

IDLE = "import signal; print('up', flush=True); signal.pause()"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {IDLE}"
# Forks, as Dramatiq's main process does; the child runs on when the parent is killed.
PARENT = f"import os\nif os.fork(): os.wait()\nelse: exec({IDLE!r})"
FRAIL_PARENT = f"import os\nif os.fork(): os.wait()\nelse: exec({DEAF!r})"


class Watched:
    """A supervisor running on a thread, what it told, and what its command printed."""

    def __init__(self, program: str, **options: float | frozenset[int]) -> None:
        self.changes: SimpleQueue[Change] = SimpleQueue()
        self.codes: SimpleQueue[int] = SimpleQueue()
        read, write = os.pipe()
        self.printed, self._printed_write = os.fdopen(read, "rb"), os.fdopen(write, "wb")
        stop_s = options.get("stop_s", WAIT_S)
        give_up_on = options.get("give_up_on", frozenset())
        assert isinstance(stop_s, float)
        assert isinstance(give_up_on, frozenset)
        self.supervisor = Supervisor(
            [sys.executable, "-c", program],
            output=self._printed_write,
            backoff=AT_ONCE,
            stop_s=stop_s,
            give_up_on=give_up_on,
            on_change=self.changes.put,
        )
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.codes.put(self.supervisor.run())

    def started(self) -> Started:
        change = self.changes.get(timeout=WAIT_S)
        assert isinstance(change, Started)
        return change

    def died(self) -> Died:
        change = self.changes.get(timeout=WAIT_S)
        assert isinstance(change, Died)
        return change

    def wait_until_up(self) -> None:
        assert self.printed.readline() == b"up\n"

    def code(self) -> int:
        return self.codes.get(timeout=WAIT_S)

    def nothing_is_left(self) -> bool:
        """True once no process holds the command's output any more."""
        self._printed_write.close()
        readable, _, _ = select.select([self.printed], [], [], WAIT_S)
        return bool(readable) and self.printed.read() == b""

    def close(self) -> None:
        self.supervisor.stop()
        self.supervisor.stop()
        self.thread.join(WAIT_S)
        self.printed.close()
        self._printed_write.close()


@contextmanager
def supervising(program: str, **options: float | frozenset[int]) -> Iterator[Watched]:
    watched = Watched(program, **options)
    try:
        yield watched
    finally:
        watched.close()


def test_a_killed_command_is_started_again() -> None:
    with supervising(IDLE) as watched:
        first = watched.started()
        os.kill(first.pid, signal.SIGKILL)
        assert watched.died() == Died(-signal.SIGKILL, life=1, delay_s=0.001)
        second = watched.started()
        assert second.life == 2
        assert second.pid != first.pid


def test_a_command_that_ends_by_itself_is_started_again() -> None:
    with supervising("raise SystemExit(3)") as watched:
        assert watched.started().life == 1
        assert watched.died().code == 3
        assert watched.started().life == 2


def test_stop_ends_the_command_with_sigterm_and_reports_success() -> None:
    with supervising(IDLE) as watched:
        watched.started()
        watched.wait_until_up()
        watched.supervisor.stop()
        assert watched.code() == 0
        assert watched.nothing_is_left()


def test_a_failure_while_stopping_is_passed_on() -> None:
    program = (
        "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "print('up', flush=True)\nsignal.pause()"
    )
    with supervising(program) as watched:
        watched.wait_until_up()
        watched.supervisor.stop()
        assert watched.code() == 7


def test_a_second_stop_kills_a_command_that_ignores_the_first() -> None:
    with supervising(DEAF) as watched:
        watched.wait_until_up()
        watched.supervisor.stop()
        watched.supervisor.stop()
        assert watched.code() == KILLED
        assert watched.nothing_is_left()


def test_a_command_that_does_not_stop_in_time_is_killed() -> None:
    with supervising(DEAF, stop_s=0.1) as watched:
        watched.wait_until_up()
        watched.supervisor.stop()
        assert watched.code() == KILLED
        assert watched.nothing_is_left()


def test_children_of_a_killed_command_are_ended_before_it_starts_again() -> None:
    with supervising(PARENT) as watched:
        first = watched.started()
        watched.wait_until_up()
        os.kill(first.pid, signal.SIGKILL)
        watched.died()  # told only after the orphan is gone
        watched.started()
        watched.wait_until_up()
        watched.supervisor.stop()
        assert watched.code() == 0
        assert watched.nothing_is_left()


def test_children_that_ignore_sigterm_are_killed() -> None:
    with supervising(FRAIL_PARENT, stop_s=0.1) as watched:
        first = watched.started()
        watched.wait_until_up()
        os.kill(first.pid, signal.SIGKILL)
        watched.died()  # told only after the orphan is gone
        watched.started()
        watched.wait_until_up()
        watched.supervisor.stop()
        assert watched.code() == KILLED
        assert watched.nothing_is_left()


def test_a_status_that_means_give_up_ends_the_supervisor() -> None:
    with supervising("raise SystemExit(2)", give_up_on=frozenset({2})) as watched:
        assert watched.code() == 2


def test_stopped_before_it_ran_it_starts_nothing() -> None:
    changes: list[Change] = []
    supervisor = Supervisor([sys.executable, "-c", IDLE], on_change=changes.append)
    supervisor.stop()
    assert supervisor.run() == 0
    assert changes == []


def test_stop_may_be_called_in_a_signal_handler_of_the_running_thread() -> None:
    program = (
        "import signal, sys; from actors.supervisor import Supervisor\n"
        f"s = Supervisor([sys.executable, '-c', {IDLE!r}])\n"
        "signal.signal(signal.SIGTERM, lambda *_: s.stop())\n"
        "sys.exit(s.run())"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.terminate()
        assert process.wait(WAIT_S) == 0


def test_the_command_may_not_be_there_at_all() -> None:
    with pytest.raises(FileNotFoundError):
        Supervisor(["/nonexistent/command"]).run()


@pytest.mark.parametrize(
    ("short_lives", "delay_s"), [(1, 0.2), (2, 0.4), (3, 0.8), (9, 30.0), (10_000, 30.0)]
)
def test_backoff_doubles_up_to_its_most(short_lives: int, delay_s: float) -> None:
    assert Backoff().delay_s(short_lives) == pytest.approx(delay_s)


def test_a_steady_life_starts_the_backoff_afresh() -> None:
    changes: list[Change] = []
    backoff = Backoff(first_s=0.001, most_s=1.0, steady_s=0.0)

    def note(change: Change) -> None:
        changes.append(change)
        if len(changes) == 6:
            supervisor.stop()

    supervisor = Supervisor([sys.executable, "-c", ""], backoff=backoff, on_change=note)
    assert supervisor.run() == 0
    assert [change.delay_s for change in changes if isinstance(change, Died)] == [0.001] * 3


def test_the_dramatiq_command_names_what_was_asked() -> None:
    command = dramatiq_command(
        "actors", "more", processes=2, threads=8, shutdown_ms=5_000, arguments=["--watch", "."]
    )
    assert command[1:3] == ["-m", "dramatiq"]
    assert {"--worker-shutdown-timeout=5000", "--processes=2", "--threads=8"} < set(command)
    assert command[-4:] == ["actors", "more", "--watch", "."]
