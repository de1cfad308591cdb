"""`headrace acl`: Redis users for the roles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from broker.cli.application import application
from broker.cli.completion import queues
from broker.cli.output import AsJson, emit
from broker.errors import InvalidOption
from broker.roles import ROLES, RoleName, User, user

app: Final = typer.Typer(add_completion=False)


@app.command("acl")
def acl(
    ctx: typer.Context,
    role: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ROLE]...", autocompletion=lambda: ROLES, help=f"Of {', '.join(ROLES)}."
        ),
    ] = None,
    queue: Annotated[
        list[str] | None,
        typer.Option(autocompletion=queues, help="Only this queue; may be given again."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The user's name, of one role. [default: headrace-ROLE]")
    ] = None,
    own: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="The jobs' own keys, as in 'shop:*'; for workers."),
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Its first line; only its hash is printed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the users of the roles as lines of an ACL file: what their scripts need, no more.

    Without a password nobody can log in as them: add `>PASSWORD`, or give a file.
    """
    roles = ROLES if not role else tuple(map(_role, role))
    if name is not None and len(roles) != 1:
        raise InvalidOption("--name", name, "is for one role")
    users = [
        user(
            each,
            application(ctx).broker.namespace,
            name=name,
            queues=queue,
            own=own or (),
            password=None if password_file is None else _first_line(password_file),
        )
        for each in roles
    ]
    if as_json:
        emit([_told(each) for each in users])
        return
    for each in users:
        typer.echo(each.line)


def _role(text: str) -> RoleName:
    for known in ROLES:
        if known == text:
            return known
    raise InvalidOption("ROLE", text, f"must be one of {', '.join(ROLES)}")


def _told(each: User) -> dict[str, object]:
    return {"name": each.name, "role": each.role, "rules": each.rules}


def _first_line(path: Path) -> str:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOption("--password-file", str(path), f"can't be read ({error})") from None
    if not lines or not lines[0]:
        raise InvalidOption("--password-file", str(path), "must have a password in its first line")
    return lines[0]
