"""The figures as a table, and as a file for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from bench.figure import Figure, written
from bench.run import Size


def table(figures: Sequence[Figure]) -> Table:
    """One line a figure."""
    made = Table("measured", "Headrace", "unit", "peer", "which", "ratio", "target", "", box=None)
    for column in made.columns:
        column.no_wrap = True
    for right in (1, 3, 5):
        made.columns[right].justify = "right"
    for figure in figures:
        made.add_row(
            figure.title,
            written(figure.ours),
            figure.unit,
            "" if figure.peer is None else written(figure.peer),
            figure.peer_name if figure.peer is not None else "",
            "" if figure.ratio is None else written(figure.ratio),
            figure.target_text,
            verdict(figure),
        )
    return made


def verdict(figure: Figure) -> str:
    """Empty without a target."""
    return {True: "met", False: "not met", None: ""}[figure.met]


def as_json(figures: Sequence[Figure], about: Mapping[str, Any]) -> str:
    """`{name: {ours, peer, ratio, unit, …}}`, and under `about` what it was measured on."""
    content: dict[str, Any] = {"about": about}
    for figure in figures:
        content[figure.name] = {
            "ours": _rounded(figure.ours),
            "peer": _rounded(figure.peer),
            "ratio": _rounded(figure.ratio),
            "unit": figure.unit,
            "title": figure.title,
            "peer_name": figure.peer_name,
            "better": figure.better,
            "target": figure.target_text or None,
            "met": figure.met,
        }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def about(
    *,
    size: Size,
    versions: Mapping[str, str],
    machine: Mapping[str, Any],
    load_before: float,
    date: str,
) -> dict[str, Any]:
    """What has to be known beside the figures."""
    return {
        "date": date,
        "versions": dict(versions),
        "machine": dict(machine),
        "load_before": load_before,
        "size": asdict(size),
    }


def _rounded(value: float | None) -> float | None:
    """Four digits are more than a benchmark knows."""
    return None if value is None else float(f"{value:.4g}")
