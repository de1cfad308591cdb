"""`python -m dashboard`: serve the dashboard; `python -m dashboard hash-password`: make a user."""

from __future__ import annotations

import argparse
import getpass
import importlib
import sys

from broker.broker import StreamsBroker
from broker.errors import HeadraceError, SettingsError
from broker.settings import Settings
from dashboard import passwords
from dashboard.serving import Server, log_to_stderr
from dashboard.settings import DashboardSettings


def main(arguments: list[str]) -> int:
    """The exit status: 0, or 2 when a setting is wrong or the address can't be had."""
    given = _parser().parse_args(arguments)
    if given.command == "hash-password":
        return hash_password()
    try:
        return serve(given.app)
    except (HeadraceError, OSError) as error:
        sys.stderr.write(f"dashboard: {error}\n")
        return 2


def serve(app: str | None) -> int:
    """Serve until an interrupt."""
    log_to_stderr()
    server = Server(_broker(app), DashboardSettings.load())
    sys.stderr.write(f"dashboard: {server.url}\n")
    try:
        server.run()
    except KeyboardInterrupt:
        pass
    finally:
        server.close()
    return 0


def hash_password() -> int:
    """Ask for a password, or read one line, and print what a line of the users' file has last."""
    password = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    if not password:
        sys.stderr.write("dashboard: the password must not be empty\n")
        return 2
    sys.stdout.write(f"{passwords.hashed(password)}\n")
    return 0


def _broker(app: str | None) -> StreamsBroker:
    if app is None:
        settings = Settings.load()
        return StreamsBroker(
            url=settings.redis_url,
            namespace=settings.queue_prefix,
            middleware=[],
            max_message_bytes=settings.max_message_bytes,
        )
    name, _, attribute = app.partition(":")
    sys.path.insert(0, "")  # as dramatiq's own command line finds modules
    try:
        found = getattr(importlib.import_module(name), attribute or "broker", None)
    except ModuleNotFoundError as error:
        raise SettingsError("--app", app, f"can't be imported ({error})") from error
    if not isinstance(found, StreamsBroker):
        raise SettingsError("--app", app, "must be a module with a StreamsBroker `broker`")
    return found


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
