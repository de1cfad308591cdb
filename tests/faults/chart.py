"""A line chart as an SVG, readable on white and on black."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 960, 360, 70, 250, 64, 52
_COLOURS = ("#0969da", "#bc4c00", "#1a7f37", "#8250df")
_STYLE = """\
    .page { fill: #ffffff; }
    .big { fill: #1f2328; font-size: 19px; font-weight: 600; }
    .note { fill: #57606a; font-size: 12px; }
    .grid { stroke: #d0d7de; }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1117; }
      .big { fill: #e6edf3; }
      .note { fill: #9da7b3; }
      .grid { stroke: #30363d; }
    }"""

Series = Sequence[tuple[float, float]]
"""Points (seconds, MB)."""


def svg(title: str, series: Mapping[str, Series], caption: str) -> str:
    """The chart as a file's text; up to four lines, memory in MB over minutes."""
    points = [point for line in series.values() for point in line]
    longest_s = max((at for at, _ in points), default=1.0) or 1.0
    highest_mb = _round_up(max((mb for _, mb in points), default=1.0))
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(at_s: float, mb: float) -> tuple[float, float]:
        x = LEFT + at_s / longest_s * inner_width
        return x, TOP + inner_height * (1 - mb / highest_mb)

    parts = [_text(LEFT, 36, "big", title)]
    for step in range(5):
        mb = highest_mb * step / 4
        _, y = place(0, mb)
        parts.append(
            f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>'
        )
        parts.append(_text(LEFT - 8, y + 4, "note", f"{mb:g} MB", anchor="end"))
        at_s = longest_s * step / 4
        x, _ = place(at_s, 0)
        label = f"{at_s / 60:.1f} min"
        parts.append(_text(x, HEIGHT - BOTTOM + 18, "note", label, anchor="middle"))
    for (name, line), colour in zip(series.items(), _COLOURS, strict=False):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line))
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
        )
        row = TOP + 16 + 22 * list(series).index(name)
        left = WIDTH - RIGHT + 18
        parts.append(f'<rect x="{left}" y="{row - 8}" width="14" height="4" fill="{colour}"/>')
        parts.append(_text(left + 22, row, "note", name))
    parts.append(_text(LEFT, HEIGHT - 10, "note", caption))
    spoken = "; ".join(
        f"{name}: {line[0][1]:.0f} MB at first, {line[-1][1]:.0f} MB at last"
        for name, line in series.items()
        if line
    )
    inside = "\n".join(f"  {part}" for part in parts)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" \
aria-labelledby="title desc" \
font-family="system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif">
  <title id="title">{escape(title)}</title>
  <desc id="desc">{escape(spoken)}</desc>
  <style>
{_STYLE}
  </style>
  <rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="8"/>
{inside}
</svg>
"""


def _round_up(mb: float) -> float:
    """The next 20, so that a quarter is a round number."""
    return max(20.0, -(-mb // 20) * 20)


def _text(x: float, y: float, kind: str, content: str, *, anchor: str = "start") -> str:
    at = f'class="{kind}" x="{x:.0f}" y="{y:.0f}"'
    return f'<text {at} text-anchor="{anchor}">{escape(content)}</text>'
