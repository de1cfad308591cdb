"""The page on testing works as it stands, and so does the application without a server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.processes import ROOT

PAGE = (ROOT / "docs" / "testing.md").read_text("utf-8")


def _run(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "STORAGE_URL": str(folder / "storage"),
            **environ,
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_example_passes(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "test_welcome.py").write_text(block, encoding="utf-8")
    ran = _run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_welcome.py")
    assert "1 passed" in ran.stdout, ran.stdout + ran.stderr


def test_the_application_runs_its_jobs_where_they_are_sent(tmp_path: Path) -> None:
    program = """
from actors.maintenance import run_maintenance
from actors.payloads import MaintenanceJob

run_maintenance.send(MaintenanceJob(task_type="remove_temporary_files"))
from actors import broker
print(type(broker).__name__, list(broker.failed))
"""
    ran = _run(tmp_path, "-c", program, HEADRACE_MODE="inline")
    assert ran.stdout == "InlineBroker []\n", ran.stderr


def test_a_mode_that_is_none_is_named(tmp_path: Path) -> None:
    ran = _run(tmp_path, "-c", "import actors", HEADRACE_MODE="sync")
    assert "HEADRACE_MODE: must be one of queue, inline, got 'sync'" in ran.stderr
