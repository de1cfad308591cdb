"""Every link of every page leads somewhere, to the heading that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.processes import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

_CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:)([^()\s]+)\)")
#: As code, settings and the changelog speak of a page.
_MENTION = re.compile(r"\bdocs/[\w/-]+\.md(?:#[\w-]+)?")
_SPEAKING = [
    ROOT / "CHANGELOG.md",
    ROOT / "pyproject.toml",
    *(
        path
        for room in ("actors", "bench", "broker", "dashboard", "middleware", "otel", "pipelines")
        for kind in ("py", "lua", "toml", "yaml", "yml")
        for path in ROOT.glob(f"{room}/**/*.{kind}")
    ),
]


def _anchors(page: Path) -> set[str]:
    """The names that GitHub gives a page's headings."""
    headings = re.findall(r"^#{1,6} (.+)$", _CODE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _leads_somewhere(source: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    page = source.parent / path if path else source
    return page.exists() and (not anchor or anchor in _anchors(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    links = _LINK.findall(_CODE.sub("", page.read_text("utf-8")))
    assert [link for link in links if not _leads_somewhere(page, link)] == []


def test_every_page_that_is_spoken_of_is_there() -> None:
    dangling = [
        f"{path.relative_to(ROOT)}: {page}"
        for path in _SPEAKING
        for page in _MENTION.findall(path.read_text("utf-8"))
        if not _leads_somewhere(ROOT / "README.md", page)
    ]
    assert dangling == []


def test_the_readme_leads_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    pages = [str(page.relative_to(ROOT)) for page in PAGES if page.parent.name != "adr"]
    assert [page for page in pages if page != "README.md" and f"]({page})" not in readme] == []
