"""`headrace events`: what happens to jobs, as it happens."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from broker.cli.application import broker_of
from broker.cli.completion import queues
from broker.cli.output import AsJson, at, emit, printable
from broker.cli.queues import known

app: Final = typer.Typer(
    no_args_is_help=True, add_completion=False, help="What happens to jobs, as it happens."
)


@app.callback()
def group() -> None:
    """A group, though it has one command."""


@app.command()
def tail(
    ctx: typer.Context,
    queue: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[QUEUE]...", autocompletion=queues, help="By default all, new ones too."
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="Begin after this event; 0-0: with all that is there.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print events until Ctrl-C, one a line."""
    broker = broker_of(ctx)
    names = [known(broker.inspector, name) for name in queue or ()] or broker.inspector.queues
    for number, event in enumerate(broker.events.follow(names, start=start), 1):
        if as_json:
            emit(event)
        else:
            what = (at(event.at_ms), event.queue, event.name, event.message_id, event.actor)
            typer.echo(printable("  ".join((*what, event.reason, event.error)).rstrip()))
        if number == count:
            return
