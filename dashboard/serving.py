"""The dashboard behind a real WSGI server."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, Final

from dramatiq.logging import get_logger
from waitress.server import create_server
from waitress.wasyncore import close_all

from broker.broker import StreamsBroker
from broker.cli.application import Application
from broker.errors import SettingsError
from broker.program_logs import shape_logs
from dashboard.application import Dashboard
from dashboard.audit import AUDIT
from dashboard.settings import DashboardSettings

#: Requests are forms: nothing here needs more.
_MOST_BODY_BYTES: Final = 1024 * 1024


class Server:
    """Listens once it is made; ``run`` answers until ``close``.

    Raises:
      SettingsError: others than this machine could connect, and nobody would be asked who they are;
        or the address is taken or not ours.
    """

    def __init__(self, broker: StreamsBroker, settings: DashboardSettings) -> None:
        secret = None if settings.secret is None else settings.secret.reveal()
        self.dashboard = Dashboard(
            broker,
            settings.prefix,
            access=settings.access,
            secret=secret,
            links=settings.links,
            proxies=settings.proxies,
        )
        self._prefix = settings.prefix
        self._logger = get_logger(__name__, type(self))
        self._server: Any = create_server(
            self._answer,
            # One socket, whatever the name has: a server of several has no port of its own.
            sockets=[_listening(settings.host, settings.port)],
            threads=settings.threads,
            max_request_body_size=_MOST_BODY_BYTES,
            url_scheme="https" if settings.https else "http",
            ident=None,
            # Whom of them to believe is known by the settings.
            clear_untrusted_proxy_headers=False,
        )
        self._settings = settings

    @property
    def url(self) -> str:
        """Where it listens."""
        host = self._settings.host
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self._server.effective_port}{self._prefix}/"

    def run(self) -> None:
        """Answer requests until :meth:`close`, or an interrupt."""
        self.dashboard.sampler.start()
        self._server.run()

    def close(self) -> None:
        """Stop listening; requests under way are answered."""
        # In its own thread, which a closing from here would let wait for its next request.
        self._server.trigger.pull_trigger(lambda: close_all(self._server._map))
        self._server.task_dispatcher.shutdown()
        self.dashboard.sampler.stop()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Any:
        path = environ.get("PATH_INFO", "")
        if self._prefix and f"{path}/".startswith(f"{self._prefix}/"):
            environ = {**environ, "PATH_INFO": path[len(self._prefix) :]}
        return self.dashboard(environ, start_response)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, reuse_port=False)
    except OSError as error:
        rule = f"must be an address of this machine and a free port ({error.strerror})"
        raise SettingsError("HEADRACE_DASHBOARD_HOST", f"{host}:{port}", rule) from error


def serve(
    application: Application, settings: DashboardSettings, *, listens: Callable[[str], None]
) -> None:
    """Serve in the foreground until SIGINT or SIGTERM. Raises as :class:`Server`.

    ``listens`` is told the address as soon as it answers.
    """
    logs = application.settings.logging
    server = Server(application.broker, settings)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    listens(server.url)
    _audit_to_stderr()
    shape_logs(logs)  # from here on: the address is for people
    application.broker.emit_after("program_boot", "dashboard")
    try:
        server.run()
    except KeyboardInterrupt:
        pass  # the way to end it
    finally:
        server.close()


def say(url: str) -> None:
    """The address, for people."""
    sys.stderr.write(f"dashboard: {url}\n")
    sys.stderr.flush()


def _audit_to_stderr() -> None:
    """The audit log as it is, whatever the settings make of other lines."""
    audit = logging.getLogger(AUDIT)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    audit.addHandler(handler)
    audit.setLevel(logging.INFO)
    audit.propagate = False
