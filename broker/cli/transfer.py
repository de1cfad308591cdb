"""`headrace export` and `headrace import`: what is left in queues, to a file and from one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from broker.cli.application import broker_of
from broker.cli.completion import queues
from broker.cli.output import AsJson, counted, said
from broker.cli.queues import Yes, known
from broker.errors import InvalidOption
from broker.export_file import count
from broker.transfer import export, import_

export_app: Final = typer.Typer(add_completion=False)
import_app: Final = typer.Typer(add_completion=False)

File = Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False)]


@export_app.command("export")
def export_queues(
    ctx: typer.Context,
    file: File,
    queue: Annotated[
        list[str] | None,
        typer.Argument(metavar="[QUEUE]...", autocompletion=queues, help="By default all."),
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Write what waits, runs and is dead to a file, and leave it where it is.

    What is encrypted stays so; the rest is in the file in clear, which is closed to others.
    """
    if file.exists() and not yes:
        raise InvalidOption("FILE", str(file), "must not be there, or --yes")
    broker = broker_of(ctx)
    names = [known(broker.inspector, name) for name in queue or ()] or broker.inspector.queues()
    infos = [broker.inspector.queue(name) for name in names]
    total = sum(i.ready + i.scheduled + i.in_flight + i.dead for i in infos)
    steps = export(broker.commands, broker.namespace, names, file)
    written = counted("exporting", steps, total, as_json)
    said({"exported": written}, as_json, f"exported {written}")


@import_app.command("import")
def import_file(ctx: typer.Context, file: File, as_json: AsJson = False) -> None:
    """Put the messages of a file back: ready, scheduled for their time, or dead.

    One that was interrupted is run again: what is there already is not added twice.
    """
    broker = broker_of(ctx)
    steps = import_(broker.commands, broker.namespace, file)
    done = counted("importing", steps, count(file), as_json)
    said({"imported": done}, as_json, f"imported {done}")
