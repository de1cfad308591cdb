"""Grafana's panels and dashboards, as much of them as ours need, and their JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

Unit: TypeAlias = Literal["short", "s", "bytes", "percentunit", "reqps", "bool"]

_PROMETHEUS: Final = {"type": "prometheus", "uid": "prometheus"}
_TEMPO: Final = {"type": "tempo", "uid": "tempo"}
_LOKI: Final = {"type": "loki", "uid": "loki"}

_COLUMNS: Final = 24
_HEIGHT: Final = 8


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression and how its series are called."""

    expr: str
    legend: str
    exemplars: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel of time series, or of single numbers."""

    title: str
    queries: Sequence[Query]
    unit: Unit = "short"
    width: int = 12
    kind: Literal["timeseries", "stat"] = "timeseries"
    text: str = ""

    def as_json(self) -> dict[str, Any]:
        """The panel without its place."""
        return {
            "type": self.kind,
            "title": self.title,
            "description": self.text,
            "datasource": _PROMETHEUS,
            "fieldConfig": {"defaults": {"unit": self.unit, "min": 0}, "overrides": []},
            "targets": [
                {
                    "refId": chr(ord("A") + number),
                    "datasource": _PROMETHEUS,
                    "expr": query.expr,
                    "legendFormat": query.legend,
                    "exemplar": query.exemplars,
                }
                for number, query in enumerate(self.queries)
            ],
        }


@dataclass(frozen=True, slots=True)
class Traces:
    """A table of traces found by TraceQL, or the graph of services."""

    title: str
    query: str
    kind: Literal["traceql", "serviceMap"] = "traceql"
    width: int = 12
    text: str = ""

    def as_json(self) -> dict[str, Any]:
        """The panel without its place."""
        target: dict[str, Any] = {"refId": "A", "datasource": _TEMPO, "queryType": self.kind}
        if self.kind == "traceql":
            target |= {"query": self.query, "limit": 20, "tableType": "traces"}
        else:
            target |= {"serviceMapQuery": self.query}
        return {
            "type": "table" if self.kind == "traceql" else "nodeGraph",
            "title": self.title,
            "description": self.text,
            "datasource": _TEMPO,
            "targets": [target],
        }


@dataclass(frozen=True, slots=True)
class Logs:
    """Log lines; those of a job lead to its trace."""

    title: str
    query: str
    width: int = 24
    text: str = ""

    def as_json(self) -> dict[str, Any]:
        """The panel without its place."""
        return {
            "type": "logs",
            "title": self.title,
            "description": self.text,
            "datasource": _LOKI,
            "options": {"showTime": True, "wrapLogMessage": True, "enableLogDetails": True},
            "targets": [{"refId": "A", "datasource": _LOKI, "expr": self.query}],
        }


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One page."""

    name: str
    title: str
    panels: Sequence[Panel | Traces | Logs]
    #: Name and query of each choice at the top.
    choices: Sequence[tuple[str, str]] = ()

    def as_json(self) -> dict[str, Any]:
        """The dashboard as Grafana provisions it."""
        return {
            "uid": f"headrace-{self.name}",
            "title": f"Headrace / {self.title}",
            "tags": ["headrace"],
            "schemaVersion": 39,
            "editable": False,
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "templating": {"list": [_choice(name, query) for name, query in self.choices]},
            "links": [
                {
                    "type": "dashboards",
                    "tags": ["headrace"],
                    "title": "Headrace",
                    "asDropdown": True,
                    "keepTime": True,
                    "includeVars": True,
                }
            ],
            "panels": list(_placed(self.panels)),
        }


def _choice(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": _PROMETHEUS,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _placed(panels: Iterable[Panel | Traces | Logs]) -> Iterable[dict[str, Any]]:
    x = y = 0
    for number, panel in enumerate(panels, 1):
        if x + panel.width > _COLUMNS:
            x, y = 0, y + _HEIGHT
        place = {"x": x, "y": y, "w": panel.width, "h": _HEIGHT}
        yield {"id": number, "gridPos": place, **panel.as_json()}
        x += panel.width
