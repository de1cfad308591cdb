"""The page on the command line works as it stands, and knows every command and exit status."""

from __future__ import annotations

import re
import shlex
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from dramatiq import Message
from typer.core import TyperGroup
from typer.main import get_command

from broker import StreamsBroker
from broker.cli.exits import Exit
from broker.cli.main import COMMANDS
from tests.cli.conftest import Headrace
from tests.processes import ROOT

PAGE = (ROOT / "docs" / "cli.md").read_text("utf-8")


def test_the_examples_run(headrace: Headrace, broker: StreamsBroker) -> None:
    broker.enqueue(Message("mail", "deliver", (), {}, {}))
    examples = re.findall(r"^\$ headrace (.*)$", PAGE, re.MULTILINE)
    assert len(examples) > 4
    for example in examples:
        ran = headrace(*shlex.split(example))
        assert (ran.status, ran.err) == (0, ""), example


def test_the_examples_of_roles_run(
    headrace: Headrace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "redis-password").write_text("geheim\n")
    page = (ROOT / "docs" / "security.md").read_text("utf-8")
    examples = re.findall(r"^\$ headrace (acl .*)$", page, re.MULTILINE)
    assert len(examples) > 2
    for example in examples:
        ran = headrace(*shlex.split(example.partition(" >>")[0]))
        assert (ran.status, ran.err) == (0, ""), example
        assert ran.out.startswith("user ")


def test_every_command_is_on_the_page() -> None:
    table = PAGE[PAGE.index("## Commands") : PAGE.index("## Long work")]
    for place in entry_points(group=COMMANDS):
        rows = "\n".join(re.findall(rf"^\| .*`{place.name}\b.*$", table, re.MULTILINE))
        assert rows, place.name
        command = get_command(place.load())
        for name in command.commands if isinstance(command, TyperGroup) else ():
            assert re.search(rf"\b{name}\b", rows), f"{place.name} {name}"


def test_every_exit_status_is_on_the_page() -> None:
    told = set(re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE))
    assert told == {"0", *(str(int(code)) for code in Exit)}
