"""The table of faults and the soak's bound: they must see what they are there to see."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.report import BEGIN, END, TITLES, Rows
from tests.faults.soak import SAMPLE_EVERY_S, WARM_UP_S, WORKER, Memory
from tests.processes import ROOT

NODE = "tests/faults/test_worker_faults.py::test_01_a_job"


def findings(**changed: Any) -> dict[str, Any]:
    found = {
        "injected": 1,
        "acknowledged": 5,
        "lost": 0,
        "given_up": 0,
        "duplicated": 1,
        "finalised_twice": 0,
        "recovered_s": 1.25,
    }
    return {**found, **changed}


def rows(*properties: tuple[str, object], node: str = NODE, outcome: Any = "passed") -> Rows:
    made = Rows()
    for when in ("setup", "call", "teardown"):
        made.add(
            pytest.TestReport(
                nodeid=node,
                location=("", 0, ""),
                keywords={},
                outcome=outcome if when == "call" else "passed",
                longrepr=None,
                when=when,
                user_properties=properties,
            )
        )
    return made


def test_a_row_is_the_sum_of_its_checks_and_the_longest_recovery() -> None:
    made = rows(("findings", findings()), ("findings", findings(recovered_s=0.5, duplicated=2)))
    summary = made.summary("01")
    assert (summary["injected"], summary["acknowledged"], summary["duplicated"]) == (2, 10, 3)
    assert summary["seconds_to_recover"] == 1.25
    assert made.violated() == made.unchecked() == []
    assert made.table()[1].split() == ["01", "1/1", "2", "10", "0", "3", "0", "1.25"]


@pytest.mark.parametrize("wrong", [{"lost": 1}, {"finalised_twice": 1}, {"lost": 2, "given_up": 1}])
def test_a_row_that_lost_or_doubled_something_is_violated(wrong: dict[str, int]) -> None:
    assert rows(("findings", findings(**wrong))).violated() == ["01"]


def test_a_loss_on_purpose_is_none_but_is_shown() -> None:
    made = rows(("findings", findings(lost=1, given_up=1)))
    assert made.violated() == []
    assert "1 (1 on purpose)" in made.table()[1]


def test_a_test_that_passed_without_the_checker_is_named() -> None:
    assert rows().unchecked() == ["01"]
    assert rows(outcome="failed").unchecked() == []
    elsewhere = rows(node="tests/cluster/test_cluster_faults.py::test_37_others")
    assert elsewhere.unchecked() == []
    assert elsewhere.table()[1].split() == ["37", "1/1", *["-"] * 6]


def test_a_row_without_a_test_that_ran_is_missing() -> None:
    assert rows().missing() == sorted(TITLES.keys() - {"01"})
    assert "01" not in rows(outcome="failed").missing()
    assert "01" in rows(outcome="skipped").missing()


RUN = """
import pytest
from tests.faults import report

report.TITLES.clear()
report.TITLES.update({"41": "refused", "43": "lags"})


@pytest.fixture
def interrupted():
    raise KeyboardInterrupt

"""
#: Of a run: its tests, pytest's options, the exit status and whether the files were written.
RUNS = {
    "whole": ("def test_41_a(): pass\ndef test_43_b(): pass", [], 0, True),
    "failed": ("def test_41_a(): assert 0\ndef test_43_b(): pass", [], 1, True),
    "a row too few": ("def test_41_a(): pass", [], 1, False),
    "skipped": ("def test_41_a(): pass\ndef test_43_b(): pytest.skip()", [], 1, False),
    "chosen": ("def test_41_a(): pass\ndef test_43_b(): pass", ["-k", "test"], 0, False),
    "interrupted": ("def test_41_a(): pass\ndef test_43_b(interrupted): pass", [], 2, False),
    "stopped": ("def test_41_a(): assert 0\ndef test_43_b(): pass", ["-x"], 1, False),
}


@pytest.mark.parametrize("run", RUNS)
def test_only_a_whole_run_to_the_end_writes_the_table_and_all_rows_have_to_be_in_it(
    tmp_path: Path, run: str
) -> None:
    tests, options, status, written = RUNS[run]
    (tmp_path / "test_rows.py").write_text(RUN + tests, "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", "utf-8")
    results, page = tmp_path / "results.json", tmp_path / "page.md"
    page.write_text(f"before {BEGIN} old {END} after", "utf-8")
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "tests.faults.report"),
            *("--faults-results", str(results), "--faults-page", str(page), *options),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == status, ran.stdout + ran.stderr
    assert results.exists() is written
    assert ("old" not in page.read_text("utf-8")) is written
    assert ("nothing is written" in ran.stdout) is not written


def test_the_page_names_what_every_row_does() -> None:
    made = rows(("findings", findings()), ("measured", {"lateness p99, ms": 3.5}))
    page = made.markdown()
    assert f"| 01 | {TITLES['01']} | 1/1 | 1 | 5 | 0 | 1 | 0 | 1.25 |" in page
    assert "- 01: lateness p99, ms: 3.5" in page


@pytest.mark.parametrize(("a_minute_mb", "grown"), [(0.1, False), (4.0, True)])
def test_memory_that_grows_is_no_flat_memory(a_minute_mb: float, grown: bool) -> None:
    memory = Memory()
    samples = int((WARM_UP_S + 600) / SAMPLE_EVERY_S)
    line = [
        (at * SAMPLE_EVERY_S, 50 + at * SAMPLE_EVERY_S / 60 * a_minute_mb) for at in range(samples)
    ]
    memory.lines[WORKER] = line
    assert memory.grown(WORKER) is grown
