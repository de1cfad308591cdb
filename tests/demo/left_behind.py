"""Which processes a program has left running."""

from __future__ import annotations

from pathlib import Path


def left_behind(folder: Path) -> list[str]:
    """Processes whose environment or command line names the folder; needs /proc."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            known = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
        except OSError:
            continue  # it is gone
        if str(folder).encode() in known:
            found.append(f"{process.name}: {known[-200:]!r}")
    return found
