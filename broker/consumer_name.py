"""Who a consumer is: a name that tells a living process from a vanished one."""

from __future__ import annotations

import itertools
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Of all brokers of this process, so that no two of them bear one name.
_boots: Final = itertools.count(1)
#: Those that have ended in this process.
_ended: Final = set[int]()


@dataclass(frozen=True, slots=True)
class ConsumerName:
    """``host/namespace/pid/start/boot``: unique over hosts, containers, pid reuse and restarts.

    ``namespace`` is that of the pid and of the kernel that runs: two machines may bear one name.
    ``boot`` counts the workers started in one process, so that a settlement of an earlier
    one never passes the fence of a later one.
    """

    host: str
    pid_namespace: str
    pid: int
    started: str
    boot: int

    def __str__(self) -> str:
        return f"{self.host}/{self.pid_namespace}/{self.pid}/{self.started}/{self.boot}"

    @classmethod
    def of_this_process(cls) -> ConsumerName:
        """A new one at each call."""
        pid, boot = os.getpid(), next(_boots)
        return cls(socket.gethostname(), _pid_namespace(), pid, _started(pid) or "0", boot)

    def end(self) -> None:
        """Who bears it in this process does nothing any more."""
        _ended.add(self.boot)

    @classmethod
    def parse(cls, name: str) -> ConsumerName | None:
        """The parts of a name, or None for a consumer that is not ours."""
        parts = name.rsplit("/", 4)
        if len(parts) != 5 or not parts[2].isdigit() or not parts[4].isdigit():
            return None
        return cls(parts[0], parts[1], int(parts[2]), parts[3], int(parts[4]))

    def vanished(self, here: ConsumerName) -> bool:
        """True only when this name's process is certainly gone, by ``here``'s own kernel."""
        if (self.host, self.pid_namespace) != (here.host, here.pid_namespace):
            return False
        if self.pid == here.pid and self.started == here.started:
            return self.boot in _ended
        return _started(self.pid) != self.started


def _pid_namespace() -> str:
    # Two containers may share a host name; a pid means something only inside its namespace. So may
    # two machines, and their first namespaces have one number: the kernel's boot tells them apart.
    try:
        kernel = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").partition("-")[0]
        return f"{Path('/proc/self/ns/pid').stat().st_ino}.{kernel}"
    except OSError:
        return "0"


def _started(pid: int) -> str | None:
    """The start time of a process in clock ticks since boot; None when it is not there."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return "0" if not Path("/proc/self").is_dir() and _exists(pid) else None
    # The command in parentheses may hold anything: count from its end (proc(5), field 22).
    state, *fields = stat.rpartition(b")")[2].split()
    return None if state in (b"Z", b"X") else fields[18].decode()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
