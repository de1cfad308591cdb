"""`headrace dev`: everything on one machine, for development."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from actors.__main__ import FOLDER
from actors.__main__ import main as run

app: Final = typer.Typer(add_completion=False)


@app.command("dev")
def dev(
    data: Annotated[Path, typer.Option(help="The embedded server's folder.")] = FOLDER,
    processes: Annotated[int | None, typer.Option(min=1, help="Worker processes.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each.")] = None,
    dashboard: Annotated[bool, typer.Option(help="Serve the dashboard as well.")] = True,
) -> None:
    """Run a server, workers, a scheduler and the dashboard until Ctrl-C.

    With REDIS_URL or REDIS_HOST set it uses that server instead of the embedded one.
    """
    arguments = [f"--data={data}"]
    if processes is not None:
        arguments.append(f"--processes={processes}")
    if threads is not None:
        arguments.append(f"--threads={threads}")
    if dashboard:
        arguments.append("--dashboard")
    raise typer.Exit(run(arguments))
