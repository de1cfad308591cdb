"""Debian's Prometheus and its tools, where they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML

from tests.ports import free_port
from tests.waiting import PATIENCE_S, eventually

#: Set to 1 where a missing tool must fail the run instead of skipping the test.
REQUIRE = "HEADRACE_REQUIRE_PROMETHEUS"


def load_yaml(path: Path) -> Any:
    """A YAML file's content, as plain dicts and lists; a key that comes twice is an error."""
    return YAML(typ="safe").load(path.read_text("utf-8"))


def tool(name: str) -> str:
    """The program, or the end of the calling test."""
    found = shutil.which(name)
    if found is not None:
        return found
    why = f"{name} is not installed (Debian: apt-get install prometheus prometheus-alertmanager)"
    if os.environ.get(REQUIRE) == "1":
        pytest.fail(why)
    pytest.skip(why)


def run(name: str, *arguments: str, cwd: Path | None = None) -> str:
    """What the program prints; it must succeed."""
    done = subprocess.run(
        [tool(name), *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Prometheus:
    """A running Prometheus, asked over HTTP."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result of an instant query."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression})
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found

    def get(self, path: str) -> Any:
        return httpx.get(f"{self.url}{path}").json()["data"]


@contextmanager
def prometheus(folder: Path, config: str, *flags: str) -> Iterator[Prometheus]:
    """Run Prometheus with this configuration."""
    program = tool("prometheus")
    port = free_port()
    (folder / "prometheus.yml").write_text(config, encoding="utf-8")
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                *flags,
            ],
            stderr=log,
        )
        try:
            running = Prometheus(port)
            eventually(lambda: _ready(running.url), bool, what="Prometheus")
            yield running
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").status_code == 200
    except httpx.TransportError:
        return False
