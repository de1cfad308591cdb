"""`headrace keys`: make keys, look at them, change them, and seal anew what waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from broker.cli.application import application
from broker.cli.completion import queues
from broker.cli.exits import Exit, Failed
from broker.cli.output import AsJson, counted, said, show
from broker.cli.queues import known
from broker.resealing import Resealer
from middleware.key_file import activate, add_key
from middleware.keyring import KeyRing, new_key

app: Final = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Make and change the keys of encrypted jobs."
)

KeyFile = Annotated[Path, typer.Argument(metavar="FILE", help="A key file.", dir_okay=False)]


@app.command()
def generate(
    id: Annotated[str | None, typer.Option(help="Its name. [default: year and month]")] = None,
    into: Annotated[
        Path | None, typer.Option(help="Add it to this key file; made when not there.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key: print it as HEADRACE_KEYS has it, or add it to a file.

    In a file that exists another key stays active: first every process must be able to open what
    the new one seals.
    """
    name = datetime.now(UTC).strftime("%Y-%m") if id is None else id
    if into is None:
        text = new_key()
        KeyRing.from_text(f"{name}:{text}")  # checks the id
        said({"id": name, "key": text}, as_json, f"{name}:{text}")
        return
    active = add_key(into, name)
    said({"id": name, "active": active}, as_json, f"added {name}; {active} is active")


@app.command()
def check(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Read the keys as a worker would; print their names and check values, never the keys."""
    ring = KeyRing.from_settings(application(ctx).settings.encryption)
    if ring is None:
        raise Failed("there are no keys: set HEADRACE_KEYS, or name a key file", Exit.USAGE)
    rows = [{"id": key.id, "check": key.check.hex(), "active": key is ring.active} for key in ring]
    columns = ("key", "check", "active")
    show(rows, as_json, columns, [tuple(row.values()) for row in rows])


@app.command()
def rotate(
    file: KeyFile,
    id: Annotated[str, typer.Argument(metavar="KEY", help="The one to seal with from now on.")],
    as_json: AsJson = False,
) -> None:
    """Make a key of a file the active one; processes use it from their next start on."""
    activate(file, id)
    said({"active": id}, as_json, f"{id} is active")


@app.command("re-encrypt")
def re_encrypt(
    ctx: typer.Context,
    queue: Annotated[
        list[str] | None,
        typer.Argument(metavar="[QUEUE]...", autocompletion=queues, help="By default all."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Seal scheduled messages and dead letters anew by the active key.

    The keys are the application's (--app, by default `actors`). What is sealed by the active key
    already is passed over, so an interrupted run goes on. The exit status is 1 if some could not
    be opened; they stay as they are.
    """
    broker = application(ctx).with_actors
    names = [known(broker.inspector, name) for name in queue or ()] or broker.inspector.queues()
    resealer = Resealer(broker.commands, broker.codec)
    not_opened = Counter[str]()
    steps = _steps(resealer, names, not_opened)
    resealed = counted("re-encrypting", steps, None, as_json)
    left = not_opened.total()
    told = {"resealed": resealed, "not_opened": left}
    said(told, as_json, f"re-encrypted {resealed}, could not open {left}")
    if left:
        raise typer.Exit(Exit.FAILED)


def _steps(resealer: Resealer, names: Iterable[str], not_opened: Counter[str]) -> Iterator[int]:
    for name in names:
        after: str | None = None
        while True:
            step = resealer.step(name, after)
            not_opened[name] += step.not_opened
            yield step.resealed
            after = step.next
            if after is None:
                break
