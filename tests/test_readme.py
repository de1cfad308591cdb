"""The README's tutorial works as it stands: its files, its settings, its commands."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from tests.processes import ROOT, Launcher
from tests.waiting import eventually

README = (ROOT / "README.md").read_text("utf-8")
QUEUE = "checksum-queue"

Run = Callable[[str], str]


def _file(name: str) -> str:
    """The README's block that begins with the file's name as a comment."""
    blocks = re.findall(r"^```\w+\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if block.startswith(f"# {name}\n")]
    return str(block)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the reader has after the first step: the application with one more file."""
    made = tmp_path / "worker-0"  # where `launch` runs the command line
    shutil.copytree(
        ROOT / "actors", made / "actors", ignore=shutil.ignore_patterns("__pycache__", "__main__*")
    )
    shutil.copy(ROOT / "README.md", made)
    (made / "actors" / "checksums.py").write_text(_file("actors/checksums.py"), encoding="utf-8")
    (made / "settings.toml").write_text(_file("settings.toml"), encoding="utf-8")
    return made


@pytest.fixture
def environment(valkey_server: EmbeddedValkey, namespace: str, folder: Path) -> dict[str, str]:
    return {
        "REDIS_URL": valkey_server.url,
        "QUEUE_PREFIX": namespace,
        "HEADRACE_SETTINGS": str(folder / "settings.toml"),
    }


@pytest.fixture
def run(folder: Path, environment: dict[str, str]) -> Run:
    """Run one of the README's programs in the reader's second terminal; what it prints."""

    def start(name: str) -> str:
        program = folder / name
        program.write_text(_file(name), encoding="utf-8")
        path = os.pathsep.join([str(folder), str(ROOT)])
        done = subprocess.run(
            [sys.executable, str(program)],
            cwd=folder,
            env={**os.environ, **environment, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return start


def test_the_tutorial_works(
    valkey_server: EmbeddedValkey,
    namespace: str,
    folder: Path,
    environment: dict[str, str],
    launch: Launcher,
    run: Run,
) -> None:
    launch("import actors\n", environment=environment).wait_until_ready()

    message_id = run("send.py").strip()
    assert re.fullmatch(r"[0-9a-f-]{36}", message_id)
    written = eventually(
        lambda: _text(folder / "README.md.sha256"), bool, what="the README's checksum"
    )
    digest = hashlib.sha256((folder / "README.md").read_bytes()).hexdigest()
    assert written == f"{digest}  README.md\n"

    run("fail.py")
    broker = StreamsBroker(url=valkey_server.url, namespace=namespace)
    eventually(lambda: broker.inspector.queue(QUEUE).dead, lambda dead: dead == 1, what="burial")

    printed = run("redrive.py").splitlines()
    assert printed[0].startswith("retries_exhausted QueueProcessingError: ")
    assert "missing.txt" in printed[0]
    assert printed[1] == "1"
    eventually(lambda: _text(folder / "missing.txt.sha256"), bool, what="the redriven checksum")
    assert broker.inspector.queue(QUEUE).dead == 0
    broker.close()


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.exists() else ""
