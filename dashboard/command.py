"""`headrace dashboard`: serve the web UI."""

from __future__ import annotations

from typing import Final

import typer

from broker.cli.application import application
from broker.cli.output import AsJson, emit
from dashboard.serving import say, serve
from dashboard.settings import DashboardSettings

app: Final = typer.Typer(add_completion=False, help="Serve the dashboard.")


@app.callback(invoke_without_command=True)
def dashboard(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Serve the dashboard until Ctrl-C, with the forms of the application's jobs if --app is given.

    The variables HEADRACE_DASHBOARD_* say where, and to whom.
    """

    def listens(url: str) -> None:
        if as_json:
            emit({"url": url})
        else:
            say(url)

    serve(application(ctx), DashboardSettings.load(), listens=listens)
