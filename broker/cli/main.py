"""`headrace`: the root of the command line, which finds its commands when they are wanted."""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated, Any, Final

import typer
from dramatiq.errors import BrokerConnectionError
from typer.core import TyperGroup
from typer.main import get_command

from broker.cli.application import Application
from broker.cli.exits import code_of
from broker.cli.output import complain
from broker.errors import HeadraceError

#: Packages name their commands under it, each a ``typer.Typer``.
COMMANDS: Final = "headrace.commands"


class _Commands(TyperGroup):
    """Imports a command's module only when it is asked for: completion stays quick."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(_places())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        place = _places().get(cmd_name)
        if place is None:
            return None
        found = get_command(place.load())
        found.name = cmd_name
        return found


@cache
def _places() -> dict[str, EntryPoint]:
    return {place.name: place for place in entry_points(group=COMMANDS)}


app = typer.Typer(
    cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich"
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"headrace {version('headrace')}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    app: Annotated[
        str | None,
        typer.Option(
            "--app",
            metavar="MODULE[:BROKER]",
            envvar="HEADRACE_APP",
            help="The application; needed for what only it has. [default: the settings alone]",
        ),
    ] = None,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Look after the queues of Headrace.

    The server is that of the settings: REDIS_URL, QUEUE_PREFIX and the file HEADRACE_SETTINGS.
    """
    ctx.obj = Application(app)


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit; :class:`broker.cli.exits.Exit` has the statuses."""
    try:
        app(args=arguments, prog_name="headrace")
    except (HeadraceError, BrokerConnectionError, OSError) as error:
        complain(str(error))
        sys.exit(code_of(error))


if __name__ == "__main__":
    main()
