"""dramatiq-dashboard's templates with ours on top, and its style as a file.

Its base template has the style within the page and no place for a stylesheet, which a strict
Content-Security-Policy forbids. Here it gets the blocks that ours fill, and the style is served.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources
from typing import Final

from jinja2 import BaseLoader, ChoiceLoader, Environment, PackageLoader

_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)
_BASE: Final = "_base.html"

#: What stands in its base template once, and what stands there for ours.
_PLACES: Final = (
    ('<html lang="en-US">', '<html lang="en"{% block theme %}{% endblock %}>'),
    (" :: Dramatiq Dashboard</title>", " · Headrace</title>{% block head %}{% endblock %}"),
    ("<body>", "<body>{% block top %}{% endblock %}"),
    ('<nav class="nav">', '<nav class="nav" aria-label="Pages">'),
    ('{{ nav_item("Dashboard", "") }}', "{% block navigation %}{% endblock %}"),
    ('<section class="content">', '<main class="content" id="content" tabindex="-1">'),
    ("</section>", "</main>"),
)


class _Theirs(PackageLoader):
    """Their templates, the base template with our blocks."""

    def __init__(self) -> None:
        super().__init__("dramatiq_dashboard", "templates")

    def get_source(
        self, environment: Environment, template: str
    ) -> tuple[str, str, Callable[[], bool] | None]:
        source, name, fresh = super().get_source(environment, template)
        return (_opened(source) if template == _BASE else source), name, fresh


def loader() -> BaseLoader:
    """Ours first; a name that begins with an underscore and is not ours is theirs."""
    return ChoiceLoader([PackageLoader("dashboard", "templates"), _Theirs()])


def their_style() -> bytes:
    """The style of their base template."""
    source = (resources.files("dramatiq_dashboard") / "templates" / _BASE).read_text("utf-8")
    found = _STYLE.search(source)
    return b"" if found is None else found[1].encode()


def _opened(source: str) -> str:
    source, _ = _STYLE.subn("", source)
    for theirs, ours in _PLACES:
        if source.count(theirs) != 1:  # another release than the one that is locked
            raise RuntimeError(f"dramatiq-dashboard's {_BASE} has changed: {theirs!r}")
        source = source.replace(theirs, ours)
    return source
