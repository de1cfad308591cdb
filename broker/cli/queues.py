"""`headrace queues`: look at queues, pause and limit them, empty them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Final

import typer

from broker.cli.application import broker_of
from broker.cli.completion import Queue
from broker.cli.exits import Exit, Failed
from broker.cli.output import AsJson, counted, facts, lasting, said, show
from broker.inspector import Inspector
from broker.operator_commands import QueueInfo

app: Final = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Look at queues, pause, limit, empty them."
)

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


def known(inspector: Inspector, name: str) -> str:
    """The name, if there is such a queue.

    Raises:
      Failed: nobody has ever used it.
    """
    if name not in inspector.queues():
        raise Failed(f"queue: there is no {name!r}", Exit.NOT_FOUND)
    return name


@app.command("ls")
def ls(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List all queues with their counts."""
    inspector = broker_of(ctx).inspector
    found = [inspector.queue(name) for name in inspector.queues()]
    columns = ("queue", "ready", "scheduled", "in flight", "dead", "oldest", "consumers", "")
    show(found, as_json, columns, map(_row, found))


def _row(info: QueueInfo) -> tuple[object, ...]:
    counts = (info.ready, info.scheduled, info.in_flight, info.dead)
    oldest = lasting(info.oldest_age_ms)
    return info.name, *counts, oldest, info.consumers, marks(info)


def marks(info: QueueInfo) -> str:
    """What keeps a queue from its usual course."""
    return ", ".join(mark for mark in ("paused", "closed") if getattr(info, mark))


@app.command("show")
def show_queue(ctx: typer.Context, queue: Queue, as_json: AsJson = False) -> None:
    """Show one queue: counts, limits, and what has gone through it."""
    inspector = broker_of(ctx).inspector
    info = inspector.queue(known(inspector, queue))
    limit, traffic = inspector.limit_of(queue), inspector.traffic(queue)
    told = {
        **dataclasses.asdict(info),
        "limit": limit,
        "traffic": traffic,
    }
    rate = None if limit.rate is None else f"{limit.rate} in {limit.per_ms} ms"
    pairs = {
        **dataclasses.asdict(info),
        "oldest_age_ms": lasting(info.oldest_age_ms),
        "oldest_entry_age_ms": lasting(info.oldest_entry_age_ms),
        "global concurrency": limit.global_concurrency,
        "rate": rate,
        "entered": traffic.entered,
        "left": traffic.left,
    }
    facts(told, as_json, {name.replace("_age_ms", ""): fact for name, fact in pairs.items()})


@app.command()
def pause(ctx: typer.Context, queue: Queue, as_json: AsJson = False) -> None:
    """Start no more jobs of a queue; enqueueing goes on."""
    _switch(ctx, queue, as_json, Inspector.pause, "paused", "was paused already")


@app.command()
def resume(ctx: typer.Context, queue: Queue, as_json: AsJson = False) -> None:
    """End a pause."""
    _switch(ctx, queue, as_json, Inspector.resume, "resumed", "was not paused")


@app.command("close")
def close(ctx: typer.Context, queue: Queue, as_json: AsJson = False) -> None:
    """Take nothing more from producers; what is there runs, and what its jobs send."""
    _switch(ctx, queue, as_json, Inspector.close, "closed", "was closed already")


@app.command("open")
def open_queue(ctx: typer.Context, queue: Queue, as_json: AsJson = False) -> None:
    """Take messages from producers again."""
    _switch(ctx, queue, as_json, Inspector.open, "opened", "was not closed")


def _switch(
    ctx: typer.Context,
    queue: str,
    as_json: bool,
    change: Callable[[Inspector, str], bool],
    done: str,
    otherwise: str,
) -> None:
    inspector = broker_of(ctx).inspector
    changed = change(inspector, known(inspector, queue))
    said({"changed": changed}, as_json, done if changed else otherwise)


@app.command("set")
def set_limits(
    ctx: typer.Context,
    queue: Queue,
    concurrency: Annotated[
        int | None, typer.Option(min=0, help="Jobs in flight at once over all workers; 0: any.")
    ] = None,
    rate: Annotated[int | None, typer.Option(min=0, help="Starts a period; 0: any.")] = None,
    per: Annotated[int | None, typer.Option(min=1, help="The rate's period, in ms.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change a queue's limits while workers run; what is not given stays.

    They hold until somebody sets others, a worker that starts with other settings included.
    """
    inspector = broker_of(ctx).inspector
    limit = inspector.limit_of(known(inspector, queue))
    if concurrency is not None:
        limit = dataclasses.replace(limit, global_concurrency=concurrency or None)
    if rate is not None:
        limit = dataclasses.replace(limit, rate=rate or None)
    if per is not None:
        limit = dataclasses.replace(limit, per_ms=per)
    changed = inspector.limit(queue, limit)
    told = {"changed": changed, "limit": limit}
    said(told, as_json, "set" if changed else "was so already")


@app.command()
def purge(ctx: typer.Context, queue: Queue, yes: Yes = False, as_json: AsJson = False) -> None:
    """Drop what is ready, scheduled or in flight. There is no way back."""
    inspector = broker_of(ctx).inspector
    info = inspector.queue(known(inspector, queue))
    total = info.ready + info.scheduled + info.in_flight
    if not yes:
        typer.confirm(f"Drop {total} messages of {queue}?", abort=True, err=True)
    dropped = counted("purging", inspector.purging(queue), total, as_json)
    said({"dropped": dropped}, as_json, f"dropped {dropped}")
