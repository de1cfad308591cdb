"""What the figures were measured on. Nothing here tells whose machine it is."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import redis

#: Above this, somebody else was using the cores.
QUIET_LOAD = 0.5


def load() -> float:
    """Processes that wanted a core, on average over the last minute."""
    return os.getloadavg()[0]


def versions(url: str) -> dict[str, str]:
    """Of everything that a figure depends on."""
    with redis.Redis.from_url(url) as client:
        server = client.info("server")
    name = str(server.get("server_name", "redis"))
    return {
        "headrace": version("headrace"),
        "python": platform.python_version(),
        "dramatiq": version("dramatiq"),
        "redis-py": version("redis"),
        "hiredis": version("hiredis"),
        name: str(server.get(f"{name}_version", server["redis_version"])),
    }


def facts() -> dict[str, Any]:
    """Cores and system."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown")
