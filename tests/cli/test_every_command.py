"""What holds for each command, also for one that comes later."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from broker.cli.exits import Exit
from broker.cli.main import COMMANDS
from tests.cli.conftest import Headrace

#: They run until Ctrl-C, whatever the server does.
SERVE = {("dashboard",), ("dev",)}
#: They ask the server nothing.
LOCAL = {("acl",), ("keys", "check"), ("keys", "generate"), ("keys", "rotate")}


def _commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    for place in sorted(entry_points(group=COMMANDS), key=lambda place: place.name):
        command = get_command(place.load())
        if isinstance(command, TyperGroup) and command.commands:
            for name, each in command.commands.items():
                yield (place.name, name), each
        else:
            yield (place.name,), command


EVERY = dict(_commands())


@pytest.mark.parametrize("words", sorted(EVERY.keys() - {("dev",)}), ids=" ".join)
def test_it_answers_programs_in_json(words: tuple[str, ...]) -> None:
    assert "--json" in [name for option in EVERY[words].params for name in option.opts]


@pytest.mark.parametrize("words", sorted(EVERY.keys() - SERVE - LOCAL), ids=" ".join)
def test_it_says_in_one_line_that_the_server_is_away(
    headrace: Headrace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:geheim@127.0.0.1:1/0")
    file = tmp_path / "file"
    file.write_text('{"headrace": 1}\n')
    given = {"FILE": str(file), "ACTOR": "send_notification", "JSON": "{}"}
    needed = [
        given.get(each.metavar or "", "x")
        for each in EVERY[words].params
        if each.param_type_name == "argument" and each.required
    ]
    ran = headrace(*words, *needed)
    assert (ran.status, ran.out) in {(Exit.UNREACHABLE, ""), (Exit.USAGE, "")}
    assert len(ran.err.splitlines()) == 1
    assert "geheim" not in ran.err
