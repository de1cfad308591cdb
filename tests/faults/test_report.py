"""The table of faults and the soak's bound: they must see what they are there to see."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.report import TITLES, Rows
from tests.faults.soak import SAMPLE_EVERY_S, WARM_UP_S, WORKER, Memory

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
