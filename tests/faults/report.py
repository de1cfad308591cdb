"""The table of faults: a pytest plugin that gathers what the checker found, row by row.

    pytest -p tests.faults.report --faults-results FILE -m faults

A test's row is the number in its name, `test_<row>_…`. The run fails when an invariant is
violated, and when a row's tests in this folder passed although none of them called the
checker. Rows of other folders (a cluster's, Sentinel's) have assertions of their own.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

_ROW = re.compile(r"::test_(\d\d)_(\w+)")
_COLUMNS: Final = (
    "row",
    "tests",
    "injected",
    "acknowledged",
    "lost",
    "duplicated",
    "finalised twice",
    "recovery s",
)
#: Rows in which no message is ever accepted, so that there is nothing to check.
NOTHING_TO_CHECK: Final = {"41"}


class Rows:
    """What the tests of each row found."""

    def __init__(self) -> None:
        self.tests: dict[str, dict[str, str]] = defaultdict(dict)
        self.findings: dict[str, list[dict[str, Any]]] = defaultdict(list)
        #: Figures that a row is about; the worst of its tests'.
        self.measured: dict[str, dict[str, float]] = defaultdict(dict)

    def add(self, report: pytest.TestReport) -> None:
        """Take in one phase of a test."""
        named = _ROW.search(report.nodeid)
        if named is None:
            return
        row = named[1]
        if report.when == "call" or report.outcome != "passed":
            self.tests[row][report.nodeid] = report.outcome
        if report.when == "teardown":
            for name, found in report.user_properties:
                if name == "findings":
                    assert isinstance(found, dict)
                    self.findings[row].append(found)
                if name == "measured":
                    assert isinstance(found, dict)
                    for figure, value in found.items():
                        self.measured[row][figure] = max(value, self.measured[row].get(figure, 0))

    def unchecked(self) -> list[str]:
        """Rows that passed without a check."""
        return sorted(
            row
            for row, tests in self.tests.items()
            if "passed" in tests.values() and not self.findings[row] and row not in NOTHING_TO_CHECK
        )

    def violated(self) -> list[str]:
        """Rows that lost or doubled what they must not."""
        return sorted(
            row
            for row in self.tests
            if (found := self.summary(row))["lost"] > found["given_up"] or found["finalised_twice"]
        )

    def summary(self, row: str) -> dict[str, Any]:
        """Sums over the row's tests; the longest recovery."""
        found = self.findings[row]
        times = [each["recovered_s"] for each in found if each["recovered_s"] is not None]
        outcomes = list(self.tests[row].values())
        return {
            "tests": len(outcomes),
            "passed": outcomes.count("passed"),
            **{
                name: sum(each[name] for each in found)
                for name in (
                    "injected",
                    "acknowledged",
                    "lost",
                    "given_up",
                    "duplicated",
                    "finalised_twice",
                )
            },
            "seconds_to_recover": round(max(times), 2) if times else None,
            "measured": self.measured.get(row, {}),
        }

    def table(self) -> list[str]:
        """The lines for a terminal."""
        lines = [_COLUMNS, *(self._cells(row) for row in sorted(self.tests))]
        widths = [max(len(line[at]) for line in lines) for at in range(len(_COLUMNS))]
        return [
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
            for line in lines
        ]

    def _cells(self, row: str) -> Sequence[str]:
        found = self.summary(row)
        lost = str(found["lost"])
        if found["given_up"]:
            lost += f" ({found['given_up']} on purpose)"
        recovery = found["seconds_to_recover"]
        counts = [str(found["injected"]), str(found["acknowledged"]), lost]
        counts += [str(found["duplicated"]), str(found["finalised_twice"])]
        if not self.findings[row]:
            counts = ["-"] * 5
        return (
            row,
            f"{found['passed']}/{found['tests']}",
            *counts,
            "-" if recovery is None else f"{recovery:.2f}",
        )


class Plugin:
    """Gathers, prints, writes."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._rows = Rows()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Every phase of every test."""
        self._rows.add(report)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail on what was violated, and on rows that nobody checked."""
        if self._rows.violated() or self._rows.unchecked():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self._path is not None:
            rows = {row: self._rows.summary(row) for row in sorted(self._rows.tests)}
            self._path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The table, and what is wrong with it."""
        terminalreporter.section("faults")
        for line in self._rows.table():
            terminalreporter.write_line(line)
        for row, figures in sorted(self._rows.measured.items()):
            for name, value in figures.items():
                terminalreporter.write_line(f"row {row}: {name}: {value:g}")
        for row in self._rows.violated():
            terminalreporter.write_line(f"row {row}: an invariant is violated", red=True)
        for row in self._rows.unchecked():
            terminalreporter.write_line(f"row {row}: passed, but nothing was checked", red=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the table is kept."""
    parser.addoption("--faults-results", type=Path, help="write the table of faults as JSON there")


def pytest_configure(config: pytest.Config) -> None:
    """Begin to gather."""
    config.pluginmanager.register(Plugin(config.getoption("--faults-results")), "faults-table")
