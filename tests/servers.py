"""The real servers the suite runs on: the embedded Valkey and the distribution's Redis."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pytest

from broker.embedded import EmbeddedValkey
from tests.ports import free_port

ServerKind = Literal["valkey", "redis"]
SERVER_KINDS: tuple[ServerKind, ...] = ("valkey", "redis")

#: Set to 1 where a missing Redis must fail the run instead of skipping half of it.
REQUIRE_REDIS = "HEADRACE_REQUIRE_REDIS"


def new_server(
    kind: ServerKind,
    data_dir: Path,
    *,
    appendonly: bool = False,
    config: Mapping[str, str] | None = None,
) -> EmbeddedValkey:
    """A server of this kind that nobody else uses, not yet started.

    Skips the calling test when Redis isn't installed, fails it when the
    environment says that Redis is required.
    """
    binary = redis_binary() if kind == "redis" else None
    # The port stays free for it while it is away.
    port = free_port()
    return EmbeddedValkey(data_dir, port=port, appendonly=appendonly, config=config, binary=binary)


def redis_binary() -> Path:
    """The distribution's redis-server, or the end of the calling test."""
    found = shutil.which("redis-server")
    if found is not None:
        return Path(found)
    if os.environ.get(REQUIRE_REDIS) == "1":
        pytest.fail("redis-server is not installed, and this run requires it")
    pytest.skip("redis-server is not installed")
