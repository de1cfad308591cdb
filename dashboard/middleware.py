"""The dashboard under a path of another WSGI application."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import dramatiq
from dramatiq_dashboard.middleware import DashboardMiddleware

from broker.broker import StreamsBroker
from broker.errors import InvalidOption
from dashboard.access import Access
from dashboard.application import Dashboard
from dashboard.settings import Links

WsgiApplication: TypeAlias = Callable[..., Any]


class _Mounted(DashboardMiddleware):  # type: ignore[misc]  # theirs has no types
    def __init__(self, app: WsgiApplication, prefix: str, dashboard: Dashboard) -> None:
        # Theirs would build its own dashboard.
        self.app = app
        self.prefix = prefix
        self.dashboard_app = dashboard

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        path = environ.get("PATH_INFO", "")
        # Not /dashboards, which may be the application's own.
        if path.startswith(self.prefix) and path[len(self.prefix) :][:1] not in ("", "/"):
            return self.app(environ, start_response)
        return super().__call__(environ, start_response)


def make_wsgi_middleware(
    prefix: str,
    broker: StreamsBroker | None = None,
    *,
    access: Access,
    secret: str | None = None,
    links: Links | None = None,
) -> Callable[[WsgiApplication], WsgiApplication]:
    """As dramatiq-dashboard's: ``app = make_wsgi_middleware("/jobs", access=...)(app)``.

    Args:
      prefix: the path, which begins with a slash and does not end with one.
      broker: Dramatiq's global one by default.
      access: who may come in; ``Access.by`` asks the application.
      secret: signs sessions; the same in every process. None: a new one, for one process.

    Raises:
      InvalidOption: names the argument, its value and the rule.
    """
    if not prefix.startswith("/") or prefix.endswith("/"):
        raise InvalidOption("prefix", prefix, "must begin with a slash and not end with one")
    found = dramatiq.get_broker() if broker is None else broker
    if not isinstance(found, StreamsBroker):
        raise InvalidOption("broker", type(found).__name__, "must be a StreamsBroker")
    dashboard = Dashboard(found, prefix, access=access, secret=secret, links=links)
    dashboard.sampler.start()
    return lambda app: _Mounted(app, prefix, dashboard)
