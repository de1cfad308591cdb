"""`python -m dashboard`: serve the dashboard; `python -m dashboard hash-password`: make a user."""

from __future__ import annotations

import argparse
import getpass
import sys

from broker.cli.application import Application
from broker.errors import HeadraceError
from dashboard import passwords
from dashboard.serving import say, serve
from dashboard.settings import DashboardSettings


def main(arguments: list[str]) -> int:
    """The exit status: 0, or 2 when a setting is wrong or the address can't be had."""
    given = _parser().parse_args(arguments)
    if given.command == "hash-password":
        return hash_password()
    try:
        serve(Application(given.app), DashboardSettings.load(), listens=say)
    except HeadraceError as error:
        sys.stderr.write(f"dashboard: {error}\n")
        return 2
    return 0


def hash_password() -> int:
    """Ask for a password, or read one line, and print what a line of the users' file has last."""
    password = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    if not password:
        sys.stderr.write("dashboard: the password must not be empty\n")
        return 2
    sys.stdout.write(f"{passwords.hashed(password)}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dashboard", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("serve", "hash-password"), default="serve")
    parser.add_argument(
        "--app",
        metavar="MODULE[:BROKER]",
        help="the application, as in `actors`: for forms that enqueue its jobs, and for its keys",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
