"""The benchmark measures both brokers and says by how much they differ."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.processes import ROOT


def test_the_benchmark_prints_both_brokers_and_their_ratio() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--jobs", "100", "--rounds", "1", "--threads", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    for name in ("StreamsBroker", "RedisBroker"):
        assert re.search(rf"{name} +│ +[\d,]+ +│ +[\d,]+ ", done.stdout), done.stdout
    assert re.search(r"ratio +│ +\d+\.\d\d +│ +\d+\.\d\d ", done.stdout), done.stdout
