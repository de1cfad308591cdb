"""What a person sees at a terminal: Tab in bash, the live screen, a bar, and Ctrl-C."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from dramatiq import Message

from broker import StreamsBroker
from broker.cli.exits import Exit
from tests.cli.terminal import at_terminal
from tests.dashboard.scene import buried

HEADRACE = str(Path(sys.executable).with_name("headrace"))
CTRL_C = "\x03"
SHOW_CURSOR = "\x1b[?25h"


@pytest.fixture
def bash(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The environment of a bash in which `headrace --install-completion` has been run."""
    path = f"{Path(HEADRACE).parent}{os.pathsep}{os.environ['PATH']}"
    made = {**environment, "HOME": str(tmp_path), "PATH": path}
    # Not the last of its commands: bash would put the program in its own place.
    command = ["bash", "-c", "headrace --install-completion; echo installed"]
    run = subprocess.run(command, env={**os.environ, **made}, capture_output=True, check=True)
    assert b"bash completion installed" in run.stdout
    with (tmp_path / ".bashrc").open("a") as file:
        file.write("\nPS1='ready> '; bind 'set enable-bracketed-paste off'\n")
    return made


def test_tab_completes_commands_and_names_in_bash(
    bash: dict[str, str], broker: StreamsBroker
) -> None:
    broker.enqueue(Message("mail", "deliver", (), {}, {}))
    with at_terminal(["bash", "-i"], bash) as terminal:
        terminal.until("ready> ")
        terminal.press("headrace que\t")
        terminal.until("headrace queues ")
        terminal.press("sho\tma\t")
        terminal.until("show mail ")
        terminal.press("--json\n")
        assert '"name": "mail"' in terminal.until("ready> ")


def test_the_live_screen_is_drawn_again_until_ctrl_c(
    environment: dict[str, str], broker: StreamsBroker
) -> None:
    broker.enqueue(Message("mail", "deliver", (), {}, {}))
    with at_terminal([HEADRACE, "stats", "--every=100"], environment) as terminal:
        first = terminal.until("mail")
        assert "in/s" in first
        broker.enqueue(Message("letters", "deliver", (), {}, {}))
        terminal.until("letters")
        terminal.press(CTRL_C)
        assert terminal.ended() == Exit.INTERRUPTED
    assert terminal.shown.rindex(SHOW_CURSOR) > terminal.shown.rindex("letters")
    assert "Traceback" not in terminal.shown


def test_a_list_too_wide_for_the_terminal_shows_each_rows_facts_below_one_another(
    environment: dict[str, str], broker: StreamsBroker
) -> None:
    sent = broker.enqueue(Message("mail", "deliver", (), {}, {}))
    jobs = [HEADRACE, "jobs", "ls", "mail"]
    with at_terminal(jobs, {**environment, "COLUMNS": "80"}) as terminal:
        assert terminal.ended() == 0
    rows = [line.split() for line in _plain(terminal.shown).splitlines()]
    assert rows[:2] == [["id", sent.message_id], ["actor", "deliver"]]
    assert "ended" not in terminal.shown, "what is empty is left out"
    with at_terminal(jobs, {**environment, "COLUMNS": "120"}) as terminal:
        assert terminal.ended() == 0
    header, row = _plain(terminal.shown).splitlines()
    assert header.split()[:2] == ["id", "actor"]
    assert row.split()[:2] == [sent.message_id, "deliver"]


def _plain(shown: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", shown)


def test_an_interrupted_redrive_shows_how_far_it_came_and_goes_on(
    environment: dict[str, str], broker: StreamsBroker
) -> None:
    count = 40
    buried(broker, "mail", ["no such address"] * count)
    redrive = [HEADRACE, "dead", "redrive", "mail"]
    with at_terminal([*redrive, "--per-second=20"], environment) as terminal:
        terminal.until(re.compile(r"\b[1-9]\d?/40"))  # a busy machine does not show every number
        terminal.press(CTRL_C)
        assert terminal.ended() == Exit.INTERRUPTED
    assert "the same command goes on with the rest" in terminal.shown
    assert terminal.shown.count(SHOW_CURSOR) > 0
    moved = broker.inspector.queue("mail").ready
    assert 0 < moved < count
    with at_terminal(redrive, environment) as terminal:
        assert terminal.ended() == 0
    assert f"moved {count - moved}" in terminal.shown
    assert broker.inspector.queue("mail").ready == count
