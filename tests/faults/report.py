"""The table of faults: a pytest plugin that gathers what the checker found, row by row.

    pytest -p tests.faults.report --faults-results FILE --faults-page PAGE -m faults

The results are JSON; the page is Markdown, of which the part between two marks is replaced.
A test's row is the number in its name, `test_<row>_…`. The run fails when an invariant is
violated, and when a row's tests in this folder passed although none of them called the
checker. Rows of other folders (a cluster's, Sentinel's) have assertions of their own.

A run of everything (no `-k`, no paths) also fails when a row has no test that ran, and it alone
writes the files, at its end: one that was interrupted or chose some tests leaves them as they are.
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
#: What is done in each row.
TITLES: Final = {
    "01": "worker killed in a job",
    "02": "worker killed after the effect, before the settlement",
    "03": "worker killed around a retry's settlement",
    "04": "worker killed at a burial",
    "05": "worker killed with a prefetch it has not begun",
    "06": "worker frozen for longer than its lease",
    "07": "worker frozen for less than its lease",
    "08": "keeper's or settler's thread dies alone",
    "10": "SIGTERM with short jobs",
    "11": "SIGTERM with a job longer than the grace",
    "12": "SIGTERM while the server is away",
    "13": "a job that kills its worker",
    "14": "the same, at the head of a prefetch of 16",
    "16": "fork after the client was used",
    "17": "two consumers of one name",
    "18": "reset between an enqueue and its reply",
    "19": "reset within a fetch's reply",
    "20": "reset within a settlement's reply",
    "22": "1 kB/s in single bytes, 200 ms jitter",
    "23": "server frozen, below and above the lease",
    "24": "server killed, append-only file, everysec",
    "26": "server restarts empty",
    "29": "SCRIPT FLUSH under load",
    "30": "FLUSHALL, stream deleted, group destroyed",
    "31": "server closes idle connections",
    "32": "all connections killed again and again",
    "33": "no free connection",
    "35": "Sentinel promotes a replica",
    "37": "cluster: a master away, a replica promoted",
    "38": "cluster: a slot moves under load",
    "39": "server out of memory",
    "41": "server that may evict: refused",
    "42": "clocks an hour off",
    "43": "a replica that lags is asked for a record",
    "44": "entries that can't be decoded",
    "45": "actor nobody knows yet",
    "46": "wrong or missing key, flipped bit, ciphertext moved",
    "47": "an old ciphertext replayed",
    "48": "bodies over the limit",
    "49": "a pickled body",
    "50": "NaN, large integers, NUL, emoji, lone surrogates",
    "51": "a backlog of a million",
    "52": "100,000 jobs due at one instant",
    "53": "one scheduled job on an idle queue",
    "54": "one of two schedulers killed at a tick, or frozen",
    "55": "a sweeper killed while it keeps others from sweeping",
    "56": "an orphan behind 10,000 healthy jobs",
    "57": "10,000 consumers come and go",
    "58": "one entry in 15 survives",
    "59": "holder of a limiter's slot killed",
    "60": "a redrive of 100,000 killed half way",
    "61": "a collector that is away, or silent",
    "62": "a command denied to the user: of each script, and while a worker runs",
    "63": "what each role may do and what not, as the server says it",
    "64": "texts that would run as scripts, wherever the dashboard shows somebody's text",
    "65": "the dashboard: another site's POST, a frame, no credentials",
    "66": "TLS: expired, wrong host, unknown authority, no client certificate",
    "67": "a canary secret through every end of a job",
}
BEGIN: Final = "<!-- make faults writes from here -->"
END: Final = "<!-- to here -->"
#: Rows in which no message is ever accepted, so that there is nothing to check.
NOTHING_TO_CHECK: Final = {"41", "43", "63", "64", "65", "66"}


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
            if not self.findings[row]
            and row not in NOTHING_TO_CHECK
            and any(
                outcome == "passed" and nodeid.startswith("tests/faults/")
                for nodeid, outcome in tests.items()
            )
        )

    def missing(self) -> list[str]:
        """Rows of which no test ran: there is none, or all were skipped."""
        return sorted(
            row
            for row in TITLES
            if not {"passed", "failed"} & set(self.tests.get(row, {}).values())
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
        outcomes = [each for each in self.tests[row].values() if each != "skipped"]
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

    def markdown(self) -> str:
        """The same as a table of a page, with what each row does."""
        head = ["row", "what is done", *_COLUMNS[1:]]
        lines = [head, [":--", ":--", *["--:"] * (len(head) - 2)]]
        for row in sorted(self.tests):
            cells = self._cells(row)
            lines.append([cells[0], TITLES.get(row, ""), *cells[1:]])
        figures = [
            f"- {row}: {name}: {value:g}"
            for row, measured in sorted(self.measured.items())
            for name, value in measured.items()
        ]
        table = [f"| {' | '.join(line)} |" for line in lines]
        return "\n".join([*table, "", "What some rows measured, at their worst:", "", *figures])

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

    def __init__(self, path: Path | None, page: Path | None) -> None:
        self._path = path
        self._page = page
        self._rows = Rows()
        self._whole = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Every phase of every test."""
        self._rows.add(report)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail on what was violated, on rows that nobody checked and, of all, on missing ones."""
        ended = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        stopped = session.shouldstop or session.shouldfail
        self._whole = ended and not stopped and _is_of_everything(session.config)
        if self._rows.violated() or self._rows.unchecked() or self._missing():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self._whole and not self._missing():
            self._write()

    def _missing(self) -> list[str]:
        return self._rows.missing() if self._whole else []

    def _write(self) -> None:
        if self._path is not None:
            rows = {row: self._rows.summary(row) for row in sorted(self._rows.tests)}
            self._path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        if self._page is not None:
            before, _, rest = self._page.read_text("utf-8").partition(BEGIN)
            _, _, after = rest.partition(END)
            table = self._rows.markdown()
            page = f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"
            self._page.write_text(page, encoding="utf-8")

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
        for row in self._missing():
            terminalreporter.write_line(f"row {row}: none of its tests ran", red=True)
        if not self._whole or self._missing():
            terminalreporter.write_line("not all rows were run to the end: nothing is written")


def _is_of_everything(config: pytest.Config) -> bool:
    chosen = config.args_source is config.ArgsSource.ARGS
    return not (chosen or config.option.keyword or config.option.lf or config.option.deselect)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the table is kept and shown."""
    parser.addoption("--faults-results", type=Path, help="write the table of faults as JSON there")
    parser.addoption("--faults-page", type=Path, help="show the table on this page")


def pytest_configure(config: pytest.Config) -> None:
    """Begin to gather."""
    plugin = Plugin(config.getoption("--faults-results"), config.getoption("--faults-page"))
    config.pluginmanager.register(plugin, "faults-table")
