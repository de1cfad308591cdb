"""Commands that live and die together, over real processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from queue import SimpleQueue

from actors.supervisor import Change, Started, Supervisor, Team

WAIT_S = 20.0
IDLE = "import signal; signal.pause()"
#: Takes a SIGTERM as Dramatiq does: it ends in its own time, and well.
PATIENT = """
import pathlib, signal, sys, time
def end(*_):
    time.sleep(0.3)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
pathlib.Path({up!r}).write_text("up")
signal.pause()
"""


class Running:
    """A team on a thread of its own, and the starts of its commands."""

    def __init__(self, *programs: str, give_up_on: frozenset[int] = frozenset()) -> None:
        self.changes: SimpleQueue[Change] = SimpleQueue()
        self.codes: SimpleQueue[int] = SimpleQueue()
        commands = [[sys.executable, "-c", program] for program in programs]
        self.team = Team(
            *(
                Supervisor(command, give_up_on=give_up_on, on_change=self.changes.put)
                for command in commands
            )
        )
        threading.Thread(target=lambda: self.codes.put(self.team.run()), daemon=True).start()
        self.started = [self.changes.get(timeout=WAIT_S) for _ in programs]

    def code(self) -> int:
        return self.codes.get(timeout=WAIT_S)


def test_a_stop_ends_all_of_them() -> None:
    running = Running(IDLE, IDLE)
    running.team.stop()
    assert running.code() == 0


def test_one_that_can_not_go_on_ends_the_others_with_its_status() -> None:
    running = Running(IDLE, "import sys; sys.exit(2)", give_up_on=frozenset({2}))
    assert running.code() == 2


def test_the_end_of_the_first_does_not_cut_the_others_short(tmp_path: Path) -> None:
    up = tmp_path / "up"
    os.mkfifo(up)
    running = Running(IDLE, PATIENT.format(up=str(up)))
    assert up.read_text() == "up"  # blocks until its handler is set
    running.team.stop()
    assert running.code() == 0


def test_each_one_is_started_again_alone() -> None:
    running = Running(IDLE, IDLE)
    first = running.started[0]
    assert isinstance(first, Started)
    os.kill(first.pid, signal.SIGKILL)
    running.changes.get(timeout=WAIT_S)
    again = running.changes.get(timeout=WAIT_S)
    assert isinstance(again, Started)
    assert again.life == 2
    running.team.stop()
    assert running.code() == 0
