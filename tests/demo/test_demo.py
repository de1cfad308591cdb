"""The demo from outside: one small run, and one that is interrupted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.demo.left_behind import left_behind

ROOT = Path(__file__).resolve().parents[2]
RUN_S = 110.0
CHECKS = {
    "states",
    "limit",
    "cancelled",
    "deduplicated",
    "redriven",
    "encryption",
    "correlation",
    "logs",
    "flows",
    "access",
}
TREE = """\
└── send notification-queue welcome (producer, demo-web, _)
    ├── process notification-queue welcome (consumer, demo-worker, _, TimeoutError)
    │   └── send notification-queue send_notification (producer, demo-worker, _)
    │       └── process notification-queue send_notification (consumer, demo-worker, _)
    └── process notification-queue welcome (consumer, demo-worker, _, attempt 2)
""".splitlines()


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
def test_a_small_demo_finds_every_effect_and_leaves_nothing(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("telemetry") / "spans.jsonl"
    with demo(tmp_path, "--scale", "0.05", "--telemetry", str(file)) as process:
        output, _ = process.communicate(timeout=RUN_S)
    assert process.returncode == 0, output
    assert "Verified: all" in output
    assert "max_deliveries" in output
    names = [line.partition(":")[0] for line in output.splitlines()]
    assert set(names) >= CHECKS
    assert "notification fan-out: completed in " in output
    assert "│  └─ ✓ optimize 40  completed" in output
    shown = [re.sub(r"[\d.]+ ms", "_", line) for line in output.splitlines()]
    start = shown.index("POST /welcome  (server, demo-web, _)")
    assert shown[start + 1 : start + 6] == TREE
    spans = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert len(spans) > 200
    assert {"send notification-queue", "create file-processing-queue"} <= {
        span["name"] for span in spans
    }
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


@pytest.mark.slow
def test_a_demo_that_serves_shows_what_is_left_until_it_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_DASHBOARD_PORT", "0")
    with demo(tmp_path, "--scale", "0.1", "--serve") as process:
        assert process.stdout is not None
        found, lines = None, []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"is at (http\S+)", line):
                break
        assert found is not None, "".join(lines)
        assert "notification-queue" in httpx.get(found[1]).text
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 0
