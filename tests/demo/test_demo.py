"""The demo from outside: one small run, and one that is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.demo.left_behind import left_behind

ROOT = Path(__file__).resolve().parents[2]
RUN_S = 110.0


@contextmanager
def demo(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The demo, with `folder` for its temporary files."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.demo", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_small_demo_finds_every_effect_and_leaves_nothing(tmp_path: Path) -> None:
    with demo(tmp_path, "--scale", "0.05") as process:
        output, _ = process.communicate(timeout=RUN_S)
    assert process.returncode == 0, output
    assert "Verified: all" in output
    assert "max_deliveries" in output
    assert left_behind(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with demo(tmp_path, "--scale", "0.05") as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert "starting workers" in first
        process.send_signal(number)
        output, _ = process.communicate(timeout=RUN_S)
    assert process.returncode == 128 + number, output
    assert "Interrupted" in output
    assert left_behind(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
