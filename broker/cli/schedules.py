"""`headrace schedules`: what runs by the clock."""

from __future__ import annotations

from typing import Final

import typer

from broker.cli.application import application, broker_of
from broker.cli.completion import ScheduleName
from broker.cli.output import AsJson, at, said, show

app: Final = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Look at what runs by the clock; run it now."
)


@app.command("ls")
def ls(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List schedules with their next and last fires."""
    found = broker_of(ctx).inspector.schedules.list()
    columns = ("name", "queue", "cron", "timezone", "next", "last", "outcome", "")
    rows = [
        (
            *(i.schedule.name, i.schedule.queue, i.schedule.cron, i.schedule.timezone),
            *(at(i.next_fire_ms), at(i.last_fire_ms), i.outcome, "paused" if i.paused else ""),
        )
        for i in found
    ]
    show(found, as_json, columns, rows)


@app.command()
def pause(ctx: typer.Context, name: ScheduleName, as_json: AsJson = False) -> None:
    """Fire it no more."""
    changed = broker_of(ctx).inspector.schedules.pause(name)
    said({"changed": changed}, as_json, "paused" if changed else "was paused already")


@app.command()
def resume(ctx: typer.Context, name: ScheduleName, as_json: AsJson = False) -> None:
    """Fire it again; the times in between are not made up for."""
    changed = broker_of(ctx).inspector.schedules.resume(name)
    said({"changed": changed}, as_json, "resumed" if changed else "was not paused")


@app.command()
def remove(ctx: typer.Context, name: ScheduleName, as_json: AsJson = False) -> None:
    """Forget it: one that the code no longer declares, or one that was added.

    A scheduler whose code still declares it brings it back within five seconds.
    """
    broker_of(ctx).inspector.schedules.remove(name)
    said({"removed": name}, as_json, "removed")


@app.command()
def run(ctx: typer.Context, name: ScheduleName, as_json: AsJson = False) -> None:
    """Enqueue its job now, beside its fires; prints the job's id.

    It is sent through the application's middleware (--app, by default `actors`).
    """
    message = application(ctx).sender.inspector.schedules.run_now(name)
    said({"id": message.message_id, "queue": message.queue_name}, as_json, message.message_id)
