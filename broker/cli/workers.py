"""`headrace workers`: which worker processes there are."""

from __future__ import annotations

from typing import Final

import typer

from broker.cli.application import broker_of
from broker.cli.output import AsJson, lasting, show

app: Final = typer.Typer(add_completion=False)


@app.command("workers")
def workers(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List worker processes, what they hold, and when the server heard of them last."""
    found = broker_of(ctx).inspector.workers()
    rows = [
        (worker.host, worker.pid, lasting(worker.idle_ms), queue, held)
        for worker in found
        for queue, held in sorted(worker.in_flight.items())
    ]
    show(found, as_json, ("host", "pid", "last seen ago", "queue", "in flight"), rows)
