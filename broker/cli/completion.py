"""What the shell offers on Tab: names that the server knows."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, TypeAlias

import typer
from dramatiq.errors import BrokerConnectionError

from broker.cli.application import Application
from broker.errors import HeadraceError


def _application(ctx: typer.Context) -> Application:
    found = ctx.find_root().params.get("app")
    return Application(found if isinstance(found, str) else None)


def queues(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of queues; none when the server can't be asked."""
    with suppress(HeadraceError, BrokerConnectionError):
        names = _application(ctx).broker.inspector.queues()
        return [name for name in names if name.startswith(incomplete)]
    return []


def schedules(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of schedules; none when the server can't be asked."""
    with suppress(HeadraceError, BrokerConnectionError):
        found = _application(ctx).broker.inspector.schedules.list()
        return [i.schedule.name for i in found if i.schedule.name.startswith(incomplete)]
    return []


def actors(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of the application's actors."""
    with suppress(HeadraceError):
        names = _application(ctx).with_actors.actors
        return sorted(name for name in names if name.startswith(incomplete))
    return []


Queue: TypeAlias = Annotated[str, typer.Argument(metavar="QUEUE", autocompletion=queues)]
ScheduleName: TypeAlias = Annotated[str, typer.Argument(metavar="NAME", autocompletion=schedules)]
