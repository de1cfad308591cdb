"""The benchmark measures everything it promises, whatever comes out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.catalogue import MEASUREMENTS, chosen
from bench.figure import Figure, Target, at_least, at_most_times, written
from bench.latency import percentile
from bench.plot import svg
from bench.report import as_json, verdict
from broker.settings import Settings
from middleware.stack import stack
from tests.processes import ROOT

# One run for all of them takes as long as what runs beside it makes it.
pytestmark = pytest.mark.timeout(300)

#: All that the program measures, the slow part too.
FIGURES = {
    "drain-default",
    "drain-default-tuned",
    "drain-default-memory",
    "drain-none",
    "drain-none-memory",
    "drain-none-bare",
    "cpu-default",
    "cpu-none",
    "drain-two-processes",
    "enqueue",
    "enqueue-many",
    "enqueue-bare",
    "enqueue-packed",
    "start-p50",
    "start-p99",
    "scheduled-late-p50",
    "scheduled-late-p99",
    "scheduled-early",
    "idle",
    "bytes-per-job",
    "drain-backlog",
    "memory-after-drain",
    "bytes-per-job-unrecorded",
    "drain-collector-away",
    "drain-collector-silent",
    "drain-production",
    "drain-records",
    "boot-telemetry",
    "cpu-telemetry",
    "drain-telemetry",
    "drain-telemetry-production",
    "flow-bytes-per-branch",
    "flow-chain",
    "flow-join",
    "flow-join-large",
    "intake",
    "memory-collector-away",
    *(f"cost-{type(each).__name__}" for each in stack(Settings.load({}))),
    "cost-Encryption",
}
#: A quick run measures one middleware alone.
QUICK = {name for name in FIGURES if not name.startswith("cost-")} | {"cost-Encryption"}
SVG = "{http://www.w3.org/2000/svg}"


def figure(ours: float, peer: float | None, target: Target | None = None) -> Figure:
    return Figure(
        name="drain",
        title="drain <fast>",
        ours=ours,
        peer=peer,
        peer_name="A & B",
        unit="jobs/s",
        target=target,
    )


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What a quick run printed, and the folder of its results."""
    folder = tmp_path_factory.mktemp("bench")
    done = bench("--quick", "--output", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, folder


def test_every_figure_is_written_with_its_peer_ratio_and_unit(quick: tuple[str, Path]) -> None:
    found: dict[str, dict[str, Any]] = json.loads((quick[1] / "results.json").read_text("utf-8"))
    about = found.pop("about")
    assert set(found) == QUICK
    for name, one in found.items():
        assert one["unit"], name
        # Of 200 jobs the server's memory tells nothing: it may free more than they take.
        assert one["ours"] >= 0 or name.startswith("bytes"), name
        if one["peer"]:
            assert one["ratio"] == pytest.approx(one["ours"] / one["peer"], rel=0.01), name
    assert {"headrace", "dramatiq", "redis-py", "python"} < set(about["versions"])
    assert about["machine"]["cores"] >= 1


def test_the_table_has_a_line_for_every_figure(quick: tuple[str, Path]) -> None:
    printed, folder = quick
    found = json.loads((folder / "results.json").read_text("utf-8"))
    titles = [one["title"] for name, one in found.items() if name != "about"]
    assert len(titles) == len(QUICK)
    for title in titles:
        assert title in printed


def test_the_plot_shows_every_figure(quick: tuple[str, Path]) -> None:
    picture = ElementTree.parse(quick[1] / "results.svg").getroot()  # noqa: S314  our own file
    bars = [each for each in picture.iter(f"{SVG}rect") if each.get("class") == "ours"]
    assert len(bars) == len(QUICK)


def test_a_part_of_the_figures_replaces_no_results() -> None:
    results = ROOT / "bench" / "results.json"
    before = results.read_bytes() if results.exists() else None
    done = bench("--quick", "--only", "memory")
    assert done.returncode == 0, done.stderr
    assert "server memory of a queued job" in done.stdout
    assert (results.read_bytes() if results.exists() else None) == before


def test_a_run_measures_everything_unless_it_is_told_otherwise() -> None:
    assert chosen((), short=False) == list(MEASUREMENTS)
    assert chosen((), short=True) == [name for name in MEASUREMENTS if name != "backlog"]
    assert chosen(["backlog"], short=True) == ["backlog"]


def test_the_committed_results_and_plot_are_those_of_a_whole_run() -> None:
    found = json.loads((ROOT / "bench" / "results.json").read_text("utf-8"))
    assert set(found) - {"about"} == FIGURES
    assert found["about"]["size"]["jobs"] == 20_000
    assert found["about"]["size"]["rounds"] >= 3
    picture = (ROOT / "bench" / "results.svg").read_text("utf-8")
    for name, one in found.items():
        assert name == "about" or one["title"] in picture


@pytest.mark.parametrize(
    ("target", "ours", "told"),
    [
        (at_least(5), 500, "met"),
        (at_least(5), 499, "not met"),
        (at_most_times(0.65), 65, "met"),
        (at_most_times(0.65), 66, "not met"),
        (Target("ours", "≤", 3), 3, "met"),
        (Target("ours", "≤", 3), 3.1, "not met"),
        (None, 1, ""),
    ],
)
def test_a_target_is_met_at_its_bound(target: Target | None, ours: float, told: str) -> None:
    assert verdict(figure(ours, 100, target)) == told


def test_a_target_beside_a_missing_peer_is_not_judged() -> None:
    assert figure(5, None, at_least(5)).met is None
    assert figure(5, 0, at_least(5)).ratio is None


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([3, 1, 2], 50, 2), (range(1, 101), 99, 99), (range(1, 11), 99, 10), ([7], 50, 7)],
)
def test_a_percentile_is_a_measured_value(
    values: Sequence[float], share: float, expected: float
) -> None:
    assert percentile(values, share) == expected


def test_names_are_escaped_in_the_plot() -> None:
    picture = svg([figure(2, 1)], "by <me> & you")
    texts = [each.text for each in ElementTree.fromstring(picture).iter(f"{SVG}text")]  # noqa: S314
    assert "drain <fast>" in texts
    assert "by <me> & you" in texts


def test_results_without_a_peer_have_no_ratio() -> None:
    found = json.loads(as_json([figure(12.3456, None)], {"date": "today"}))
    assert found["drain"]["ours"] == 12.35
    assert found["drain"]["peer"] is None
    assert found["drain"]["ratio"] is None
    assert found["about"] == {"date": "today"}


def test_numbers_have_as_many_digits_as_they_deserve() -> None:
    assert [written(v) for v in (12345.6, 99.94, 0.654, 0.0)] == ["12,346", "99.9", "0.65", "0"]
