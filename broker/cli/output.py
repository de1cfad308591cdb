"""What commands print: tables for people, JSON for programs, and progress on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Final, TypeAlias

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

#: The option that every command has.
AsJson: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print JSON: one value, or one a line of what goes on.")
]

_PIPED_WIDTH: Final = 10_000


def console() -> Console:
    """Standard output. What is piped is not cut to the width of a terminal."""
    return Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, soft_wrap=True)


def complain(message: str) -> None:
    """One line on standard error."""
    typer.echo(f"headrace: {printable(message)}", err=True)


def emit(value: object) -> None:
    """One line of JSON, in ASCII: no text in it depends on the terminal or can act on it."""
    typer.echo(json.dumps(msgspec.to_builtins(value)))


def show(
    value: object,
    as_json: bool,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    none: str = "none",
) -> None:
    """The value as JSON, or the rows as a table."""
    if as_json:
        emit(value)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(part) for part in row))
    console().print(table if table.row_count else Text(none))


def facts(value: object, as_json: bool, pairs: Mapping[str, object]) -> None:
    """The value as JSON, or its facts one a line; those that are None are left out."""
    if as_json:
        emit(value)
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, fact in pairs.items():
        if fact is not None and fact != "":
            table.add_row(name, _cell(fact))
    console().print(table)


def said(value: object, as_json: bool, sentence: str) -> None:
    """The value as JSON, or a sentence."""
    if as_json:
        emit(value)
    else:
        typer.echo(printable(sentence))


def printable(text: str) -> str:
    """The text on one line without control characters: nobody's error text moves the cursor."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def lines(text: str) -> str:
    """As :func:`printable`, line by line."""
    return "\n".join(map(printable, text.splitlines()))


def at(unix_ms: int | None) -> str:
    """A time, UTC to the second."""
    if unix_ms is None:
        return ""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def lasting(ms: int | None) -> str:
    """A span of time with its largest unit."""
    if ms is None:
        return ""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)):
        if ms >= size:
            return f"{ms / size:.1f} {unit}"
    return f"{ms} ms"


@contextmanager
def progress(what: str, total: int | None, as_json: bool) -> Iterator[Progress]:
    """A bar on standard error, where that is a terminal."""
    columns = (
        *(TextColumn("{task.description}"), BarColumn()),
        *(MofNCompleteColumn(), TimeRemainingColumn()),
    )
    err = Console(stderr=True)
    with Progress(*columns, console=err, disable=as_json or not err.is_terminal) as bar:
        bar.add_task(what, total=total)
        yield bar


def counted(what: str, steps: Iterable[int], total: int | None, as_json: bool) -> int:
    """Go through the steps of a long piece of work under a bar; returns their sum.

    By Ctrl-C it stops between two steps, says how far it came, and the interrupt goes on.
    """
    done = 0
    try:
        with progress(what, total, as_json) as bar:
            for step in steps:
                done += step
                bar.advance(bar.task_ids[0], step)
    except KeyboardInterrupt:
        complain(f"interrupted after {done} or a few more; the same command goes on with the rest")
        raise
    return done


def _cell(value: object) -> Text:
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    return Text("" if value is None else printable(str(value)))
