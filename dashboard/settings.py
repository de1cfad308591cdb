"""The dashboard's settings, from the environment; ``docs/dashboard.md`` lists them."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping
from typing import Annotated, Final
from urllib.parse import quote

import msgspec
from msgspec import Meta

from broker.configuration import HIDDEN, Secret, Variable, build, from_environment
from broker.errors import SettingsError
from dashboard.access import Access, Proxies, ProxyHeader, Users

_LEAST_SECRET: Final = 32


class Links(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a job's trace and log lines are; None: nowhere, and no links."""

    #: Of Grafana, as in http://grafana.example:3000, with our data sources `tempo` and `loki`.
    grafana: Annotated[str, Meta(pattern=r"^https?://[^\s/]+")] | None = None

    def trace(self, trace_id: str | None) -> str | None:
        """The address of a trace."""
        if not trace_id:
            return None
        return self._explore("tempo", {"queryType": "traceql", "query": trace_id})

    def logs(self, correlation_id: str | None) -> str | None:
        """The address of the log lines of a chain."""
        if not correlation_id:
            return None
        # LogQL's strings are Go's, as JSON's are.
        line = f'{{service_namespace=~".+"}} | json | correlationId={json.dumps(correlation_id)}'
        return self._explore("loki", {"expr": line})

    def _explore(self, source: str, query: dict[str, str]) -> str | None:
        if self.grafana is None:
            return None
        pane = {
            "datasource": source,
            "queries": [{"refId": "A", "datasource": {"type": source, "uid": source}, **query}],
            "range": {"from": "now-24h", "to": "now"},
        }
        panes = quote(json.dumps({"job": pane}), safe="")
        return f"{self.grafana.rstrip('/')}/explore?schemaVersion=1&panes={panes}"


class DashboardSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the dashboard is served, and to whom. Secrets hide themselves in its repr."""

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8000
    #: The path before all of its own, where a proxy hands that on; empty for none.
    prefix: Annotated[str, Meta(pattern=r"^(/[^/\s]+)*$")] = ""
    threads: Annotated[int, Meta(ge=1, le=64)] = 8
    #: Users, one a line: name:role:hash.
    users: Secret | None = None
    #: Signs sessions. None: a new one for each start, which ends all sessions.
    secret: Secret | None = None
    #: A header by which a proxy in front names the user.
    proxy_header: Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]+$")] | None = None
    #: Where the connections of proxies in front come from: addresses or networks.
    proxy_addresses: tuple[str, ...] = ()
    #: Of the users that it names, those who may act; the others may look.
    proxy_operators: tuple[str, ...] = ()
    #: Whether browsers come by https, which the proxy in front of the server ends.
    https: bool = False
    links: Links = Links()

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> DashboardSettings:
        """Read the environment.

        Raises:
          SettingsError: a setting is wrong; names field, value and rule.
        """
        environ = os.environ if environ is None else environ
        made = build(
            cls, from_environment(environ, VARIABLES), names=_NAMES, secret=("users", "secret")
        )
        if made.secret is not None and len(made.secret.reveal()) < _LEAST_SECRET:
            rule = f"must have at least {_LEAST_SECRET} characters"
            raise SettingsError("HEADRACE_DASHBOARD_SECRET", HIDDEN, rule)
        if made.proxy_header is not None and not made.proxy_addresses:
            rule = "is required with HEADRACE_DASHBOARD_PROXY_HEADER"
            raise SettingsError("HEADRACE_DASHBOARD_PROXY_ADDRESSES", "", rule)
        if made.proxy_header is not None and made.users is not None:
            rule = "can't be set beside HEADRACE_DASHBOARD_PROXY_HEADER"
            raise SettingsError("HEADRACE_DASHBOARD_USERS", HIDDEN, rule)
        return made

    @property
    def proxies(self) -> Proxies:
        """
        Raises:
          SettingsError: an address is none.
        """
        return Proxies(self.proxy_addresses)

    @property
    def access(self) -> Access:
        """Who may come in.

        Raises:
          SettingsError: nobody would be asked who they are, and others than this machine can
            connect.
        """
        if self.proxy_header is not None:
            known = ProxyHeader(self.proxy_header, self.proxies, self.proxy_operators)
            return Access.by(known)
        if self.users is not None:
            return Access.by_password(Users(self.users.reveal(), source="HEADRACE_DASHBOARD_USERS"))
        if not _is_loopback(self.host):
            rule = (
                "must be a loopback address without users: set HEADRACE_DASHBOARD_USERS_FILE "
                "(python -m dashboard hash-password makes its lines) or a proxy's header"
            )
            raise SettingsError("HEADRACE_DASHBOARD_HOST", self.host, rule)
        return Access.open_to_this_machine()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


#: Every one that is read.
VARIABLES: Final = (
    Variable("HEADRACE_DASHBOARD_HOST", "host"),
    Variable("HEADRACE_DASHBOARD_PORT", "port", int),
    Variable("HEADRACE_DASHBOARD_PREFIX", "prefix"),
    Variable("HEADRACE_DASHBOARD_THREADS", "threads", int),
    Variable("HEADRACE_DASHBOARD_USERS", "users"),
    Variable("HEADRACE_DASHBOARD_SECRET", "secret"),
    Variable("HEADRACE_DASHBOARD_PROXY_HEADER", "proxy_header"),
    Variable("HEADRACE_DASHBOARD_PROXY_ADDRESSES", "proxy_addresses", _listed),
    Variable("HEADRACE_DASHBOARD_PROXY_OPERATORS", "proxy_operators", _listed),
    Variable("HEADRACE_DASHBOARD_HTTPS", "https", _truth),
    Variable("HEADRACE_DASHBOARD_GRAFANA", "links.grafana"),
)
_NAMES: Final = {variable.field: variable.name for variable in VARIABLES}
