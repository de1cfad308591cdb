"""`headrace doctor`: what is wrong, and what to do about it."""

from __future__ import annotations

from typing import Final

import typer

from broker.cli.application import broker_of
from broker.cli.exits import Exit
from broker.cli.output import AsJson, show
from broker.doctor import Doctor, Severity

app: Final = typer.Typer(add_completion=False)

_SIGNS: Final = {Severity.OK: "ok", Severity.WARNING: "warning", Severity.ERROR: "ERROR"}


@app.command("doctor")
def doctor(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Examine server, queues, workers and schedules; the exit status is 1 after an error."""
    broker = broker_of(ctx)
    examined = Doctor(broker.commands, broker.inspector, broker.heartbeat_timeout)
    found = list(examined.examine())
    rows = [(_SIGNS[each.severity], each.check, each.found, each.advice) for each in found]
    show(found, as_json, ("", "check", "found", "what to do"), rows)
    if any(each.severity is Severity.ERROR for each in found):
        raise typer.Exit(Exit.FAILED)
