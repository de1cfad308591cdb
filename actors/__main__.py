"""`python -m actors`, `make run`: a server, the workers and a scheduler, until Ctrl-C.

With REDIS_URL or REDIS_HOST set it uses that server. Without, it starts the embedded one,
which keeps its data (append-only file) in `.headrace/` of the current folder. Everything
after `--` goes to Dramatiq's command line as it is.

Exit status: 0 after Ctrl-C or SIGTERM, 1 if something had to be killed or could not start,
2 if the jobs can't be imported, otherwise Dramatiq's own.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final

from actors.supervisor import (
    KILLED,
    Change,
    Died,
    Supervisor,
    Team,
    dramatiq_command,
    periodiq_command,
)
from broker.configuration import value_of
from broker.embedded import EmbeddedValkey

FOLDER: Final = Path(".headrace")
USUAL_PORT: Final = 6379
USUAL_DASHBOARD_PORT: Final = 8000
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Dramatiq's RET_IMPORT and RET_PIDFILE: another start would end the same way.
HOPELESS: Final = frozenset({2, 4})


class Stopped(BaseException):
    """Asked to stop before the workers were started; no Exception, so that nothing keeps it."""


class FolderInUse(Exception):
    """Another process keeps its data there; two servers would ruin one append-only file."""


def main(command_line: Sequence[str] | None = None) -> int:
    """Run until a signal; returns the exit status."""
    arguments = _parser().parse_args(command_line)
    for number in SIGNALS:
        signal.signal(number, _raise_stopped)
    try:
        with ExitStack() as stack:
            environ = dict(os.environ)
            if not has_server(environ):
                environ["REDIS_URL"] = stack.enter_context(_embedded(arguments.data))
            return _run(arguments, environ)
    except Stopped:
        return 0
    except FolderInUse as error:
        _say(str(error))
        return KILLED


def has_server(environ: dict[str, str]) -> bool:
    """Whether the environment says which server to use."""
    return any(value_of(environ, name) is not None for name in ("REDIS_URL", "REDIS_HOST"))


def _run(arguments: argparse.Namespace, environ: dict[str, str]) -> int:
    workers = dramatiq_command(
        "actors",
        processes=arguments.processes,
        threads=arguments.threads,
        arguments=arguments.dramatiq,
    )
    supervisors = [
        Supervisor(
            workers, environ=environ, give_up_on=HOPELESS, on_change=partial(_report, "workers")
        ),
        Supervisor(
            periodiq_command("actors"), environ=environ, on_change=partial(_report, "scheduler")
        ),
    ]
    if arguments.dashboard:
        if not _is_free(USUAL_DASHBOARD_PORT):
            environ.setdefault("HEADRACE_DASHBOARD_PORT", "0")
        supervisors.append(
            Supervisor(
                [sys.executable, "-m", "dashboard", "--app", "actors"],
                environ=environ,
                give_up_on=HOPELESS,
                on_change=partial(_report, "dashboard"),
            )
        )
    team = Team(*supervisors)
    for number in SIGNALS:
        signal.signal(number, lambda *_: team.stop())
    try:
        return team.run()
    finally:
        # What follows is short and must not be cut short: the server writes its data.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def _embedded(folder: Path) -> Iterator[str]:
    with _owned(folder):
        server = EmbeddedValkey(folder / "valkey", port=_usual_port(), appendonly=True)
        with server:
            _say(f"embedded server, data in {folder}/. For other programs: REDIS_URL={server.url}")
            yield server.url


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """The folder belongs to this process until it ends, however it ends.

    Raises:
      FolderInUse: it belongs to another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUse(
                f"{folder}/ is in use by another server; --data names another"
            ) from None
        yield


def _usual_port() -> int | None:
    """The port that the settings' default names, so that producers need none; None: not free."""
    return USUAL_PORT if _is_free(USUAL_PORT) else None


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _report(what: str, change: Change) -> None:
    if isinstance(change, Died):
        _say(f"{what} ended with status {change.code}; next start in {change.delay_s:.1f} s")


def _say(text: str) -> None:
    sys.stderr.write(f"headrace: {text}\n")
    sys.stderr.flush()


def _raise_stopped(number: int, frame: FrameType | None) -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # what follows must not be cut short
    raise Stopped


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m actors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=FOLDER, help="the embedded server's folder")
    parser.add_argument("--processes", type=_count, help="worker processes; default: one a CPU")
    parser.add_argument("--threads", type=_count, help="threads a process; default: Dramatiq's")
    parser.add_argument("--dashboard", action="store_true", help="serve the dashboard as well")
    parser.add_argument("dramatiq", nargs="*", help="arguments for dramatiq, after --")
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


if __name__ == "__main__":
    sys.exit(main())
