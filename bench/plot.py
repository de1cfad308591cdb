"""The figures as a picture: two bars each, and their ratio. Readable on white and on black."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bench.figure import TIMES, Figure, written
from bench.report import verdict

WIDTH, MARGIN = 960, 28
HEAD, ROW, FOOT = 76, 66, 40
BAR, LONGEST = 15, 480

_LEGEND = (
    "Upper bar: Headrace. Lower bar: the peer that is named. Right: Headrace's figure by the "
    "peer's. Each row has a scale of its own."
)
_STYLE = """\
    .page { fill: #ffffff; }
    .name { fill: #1f2328; font-size: 14px; font-weight: 600; }
    .big { fill: #1f2328; font-size: 19px; font-weight: 600; }
    .note { fill: #57606a; font-size: 12px; }
    .line { stroke: #d0d7de; }
    .ours { fill: #0969da; }
    .peer { fill: #afb8c1; }
    .met { fill: #1a7f37; font-size: 12px; }
    .not { fill: #cf222e; font-size: 12px; }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1117; }
      .name, .big { fill: #e6edf3; }
      .note { fill: #9da7b3; }
      .line { stroke: #30363d; }
      .ours { fill: #58a6ff; }
      .peer { fill: #6e7681; }
      .met { fill: #56d364; }
      .not { fill: #ff7b72; }
    }"""


def svg(figures: Sequence[Figure], caption: str) -> str:
    """The picture as a file's text; `caption` says what it was measured on."""
    height = HEAD + ROW * len(figures) + FOOT
    title = "Headrace and its peers in one run"
    rows = "\n".join(_row(figure, HEAD + ROW * at) for at, figure in enumerate(figures))
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" \
aria-labelledby="title desc" \
font-family="system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif">
  <title id="title">{title}</title>
  <desc id="desc">{escape(" ".join(map(_spoken, figures)), quote=False)}</desc>
  <style>
{_STYLE}
  </style>
  <rect class="page" width="{WIDTH}" height="{height}" rx="8"/>
  {_text(MARGIN, 36, "big", title)}
  {_text(MARGIN, 57, "note", _LEGEND)}
{rows}
  {_text(MARGIN, height - 16, "note", caption)}
</svg>
"""


def _row(figure: Figure, top: int) -> str:
    scale = max(figure.ours, figure.peer or 0) or 1
    parts = [
        f'<line class="line" x1="{MARGIN}" y1="{top}" x2="{WIDTH - MARGIN}" y2="{top}"/>',
        _text(MARGIN, top + 20, "name", figure.title),
        _text(WIDTH - MARGIN, top + 20, "note", f"{figure.better} is better", anchor="end"),
        _bar("ours", top + 27, figure.ours / scale, f"{written(figure.ours)} {figure.unit}"),
    ]
    if figure.peer is not None:
        label = f"{written(figure.peer)}  {figure.peer_name}"
        parts.append(_bar("peer", top + 45, figure.peer / scale, label))
    if figure.ratio is not None:
        parts.append(
            _text(WIDTH - MARGIN, top + 41, "big", f"{written(figure.ratio)}{TIMES}", anchor="end")
        )
    if figure.target is not None:
        kind = "met" if figure.met else "not"
        told = f"target {figure.target_text}: {verdict(figure)}"
        parts.append(_text(WIDTH - MARGIN, top + 58, kind, told, anchor="end"))
    return "\n".join(f"  {part}" for part in parts)


def _bar(kind: str, top: int, share: float, label: str) -> str:
    width = max(2, round(share * LONGEST))
    bar = f'<rect class="{kind}" x="{MARGIN}" y="{top}" width="{width}" height="{BAR}" rx="2"/>'
    return bar + _text(MARGIN + width + 8, top + 12, "note", label)


def _text(x: int, y: int, kind: str, content: str, *, anchor: str = "start") -> str:
    at = f'class="{kind}" x="{x}" y="{y}"'
    return f'<text {at} text-anchor="{anchor}">{escape(content, quote=False)}</text>'


def _spoken(figure: Figure) -> str:
    ours = f"{figure.title}: {written(figure.ours)} {figure.unit}"
    if figure.peer is None:
        return f"{ours}."
    return f"{ours}, {figure.peer_name} {written(figure.peer)}."
