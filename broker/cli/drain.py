"""`headrace drain`: stop intake, let work finish, say what is left."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Final

import typer

from broker.cli.application import broker_of
from broker.cli.completion import queues
from broker.cli.exits import Exit
from broker.cli.output import AsJson, counted, show
from broker.cli.queues import known
from broker.inspector import Inspector

app: Final = typer.Typer(add_completion=False)

_LOOK_EVERY_S: Final = 0.25


@app.command("drain")
def drain(
    ctx: typer.Context,
    queue: Annotated[
        list[str] | None,
        typer.Argument(metavar="[QUEUE]...", autocompletion=queues, help="By default all."),
    ] = None,
    timeout: Annotated[int, typer.Option(min=0, help="The longest wait, in ms.")] = 600_000,
    as_json: AsJson = False,
) -> None:
    """Take nothing more from producers, wait until what is due has run, and say what is left.

    The queues stay closed: `headrace queues open` ends that. What is scheduled for later and what
    is dead is left. The exit status is 6 if work was not done in time.
    """
    inspector = broker_of(ctx).inspector
    names = [known(inspector, name) for name in queue or ()] or inspector.queues()
    for name in names:
        inspector.close(name)
    total = sum(_at_work(inspector, name) for name in names)
    counted("draining", _falling(inspector, names, timeout / 1_000), total, as_json)
    left = [inspector.queue(name) for name in names]
    rows = [(i.name, i.ready, i.in_flight, i.scheduled, i.dead) for i in left]
    show(left, as_json, ("queue", "ready", "in flight", "scheduled", "dead"), rows)
    if any(i.ready + i.in_flight + i.due for i in left):
        raise typer.Exit(Exit.TIMED_OUT)


def _falling(inspector: Inspector, names: Sequence[str], timeout_s: float) -> Iterator[int]:
    """By how much the work falls, look by look, until there is none or the time is over."""
    deadline = time.monotonic() + timeout_s
    before = sum(_at_work(inspector, name) for name in names)
    while before and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY_S)
        now = sum(_at_work(inspector, name) for name in names)
        yield before - now
        before = now


def _at_work(inspector: Inspector, name: str) -> int:
    info = inspector.queue(name)
    return info.ready + info.in_flight + info.due
