"""Charts as lines of an SVG, drawn on the server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from dashboard.filters import NOTHING, lasting, number
from dashboard.sampler import INTERVAL_S, Sample

WIDTH: Final = 320
HEIGHT: Final = 80
#: Of fewer samples the rest of the chart stays empty.
_LEAST: Final = 60


@dataclass(frozen=True, slots=True)
class Line:
    """One line; ``style`` is the class of its colour."""

    name: str
    style: str
    #: ``x,y x,y`` for each unbroken part.
    parts: list[str]
    latest: str


@dataclass(frozen=True, slots=True)
class Chart:
    title: str
    highest: str
    lines: list[Line]

    @property
    def told(self) -> str:
        """The chart in words, for who does not see it."""
        each = ", ".join(f"{line.name} {line.latest}" for line in self.lines)
        return f"{self.title}, now: {each}; highest {self.highest}"


def charts(samples: Sequence[Sample]) -> list[Chart]:
    """Depth, rates, latency and errors over time."""
    return [
        _chart(
            "Jobs",
            number,
            ("waiting", "secondary", [s.depth for s in samples]),
            ("in flight", "primary", [s.in_flight for s in samples]),
        ),
        _chart(
            "Rate per second",
            _rate,
            ("in", "secondary", [s.entered_per_s for s in samples]),
            ("out", "primary", [s.left_per_s for s in samples]),
        ),
        _chart(
            "Latency (p95)",
            lasting,
            ("wait", "secondary", [s.wait_ms for s in samples]),
            ("run", "primary", [s.run_ms for s in samples]),
        ),
        _chart(
            "Errors per minute",
            _rate,
            ("died", "tertiary", [s.died_per_min for s in samples]),
        ),
    ]


def span(samples: Sequence[Sample]) -> str:
    """How far back the charts of these samples go."""
    return lasting(_shown(samples) * INTERVAL_S * 1000)


def _shown(samples: Sequence[object]) -> int:
    return max(_LEAST, len(samples))


def _chart(
    title: str,
    shown: Callable[[float], str],
    *lines: tuple[str, str, Sequence[float | None]],
) -> Chart:
    highest = max((v for _, _, values in lines for v in values if v is not None), default=0.0)
    return Chart(
        title,
        shown(highest),
        [
            Line(
                name,
                style,
                _parts(values, highest or 1.0),
                NOTHING if not values or values[-1] is None else shown(values[-1]),
            )
            for name, style, values in lines
        ],
    )


def _parts(values: Sequence[float | None], highest: float) -> list[str]:
    parts: list[list[str]] = [[]]
    for index, value in enumerate(values):
        if value is None:
            parts.append([])
            continue
        x = WIDTH - (len(values) - 1 - index) * WIDTH / (_shown(values) - 1)
        y = HEIGHT - 2 - value / highest * (HEIGHT - 6)
        parts[-1].append(f"{x:.1f},{y:.1f}")
    # A point alone is no line: it gets a length that can be seen.
    return [
        " ".join(points if len(points) > 1 else [points[0], points[0]])
        for points in parts
        if points
    ]


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 100 else number(value)
