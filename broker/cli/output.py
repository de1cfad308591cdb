"""What commands print: tables for people, JSON for programs, and progress on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Final, TypeAlias

import msgspec
import typer
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from broker.moment import utc

#: The option that every command has.
AsJson: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print JSON: one value, or one a line of what goes on.")
]

_PIPED_WIDTH: Final = 10_000
#: Between two columns of a table.
_GAP: Final = 2
#: What a table's last column, the longest text, has at the least.
_LEAST_OF_THE_LAST: Final = 24


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
    """The value as JSON, or the rows as a table; where that is too wide, each row's facts."""
    if as_json:
        emit(value)
        return
    out = console()
    cells = [[_cell(part) for part in row] for row in rows]
    if not cells:
        out.print(Text(none))
    elif _fits(columns, cells, out.width):
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns[:-1]:
            table.add_column(column, no_wrap=True)
        table.add_column(columns[-1], overflow="fold")
        for row in cells:
            table.add_row(*row)
        out.print(table)
    else:
        for number, row in enumerate(cells):
            if number:
                out.print()
            out.print(_pairs(zip(columns, row, strict=True)))


def _fits(columns: Sequence[str], rows: Sequence[Sequence[Text]], width: int) -> bool:
    """Whether no column but the last has to be folded, and that one has room enough."""
    *widths, last = (
        max(cell_len(column), *(row[number].cell_len for row in rows))
        for number, column in enumerate(columns)
    )
    return sum(widths) + _GAP * len(widths) + min(last, _LEAST_OF_THE_LAST) <= width


def _pairs(pairs: Iterable[tuple[str, Text]]) -> Table:
    """Facts one a line; those that are empty are left out."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, fact in pairs:
        if fact:
            table.add_row(name, fact)
    return table


def facts(value: object, as_json: bool, pairs: Mapping[str, object]) -> None:
    """The value as JSON, or its facts one a line; those that are None are left out."""
    if as_json:
        emit(value)
        return
    console().print(_pairs((name, _cell(fact)) for name, fact in pairs.items()))


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
    """A time, UTC to the second; the number itself where that is no time."""
    if unix_ms is None:
        return ""
    time = utc(unix_ms)
    return str(unix_ms) if time is None else time.strftime("%Y-%m-%d %H:%M:%SZ")


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
