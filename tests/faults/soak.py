"""Faults at a steady rate for a while: `python -m tests.faults.soak --minutes 10`.

A producer enqueues at a constant rate, two workers run the jobs, and every few seconds one
of these happens: a worker is killed (row 1) or frozen beyond its lease (6), an enqueue's
reply is cut off (18), the server is frozen (23), all connections are killed (32). In the end
the checker looks at everything, and the memory of the worker that was never killed and of
the server must not have grown. The figures and their curves are written beside this file.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from uuid import uuid4

import redis
from dramatiq.errors import BrokerConnectionError

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from broker.scripts import script
from tests.applications import Effects, application
from tests.faults import chart
from tests.faults.history import FinalisationsInFile, History
from tests.faults.proxy import Proxy
from tests.faults.signals import frozen
from tests.processes import CommandLine

HERE = Path(__file__).parent
RATE_PER_S = 40
LEASE_MS = 1500
FAULT_EVERY_S = 4.0
SAMPLE_EVERY_S = 1.0
#: A finished job's record stays in the server for so long: before, memory has to grow.
WARM_UP_S = 75.0
WORKER, SERVER = "worker, kept: resident", "server: used memory"
#: What memory may grow by after the warm-up.
GROWTH_MB = {WORKER: 5.0, SERVER: 1.0}
#: A message may be met by several faults, if hardly by more than its retries.
FAILURES_A_MESSAGE = 4

JOBS = """
@dramatiq.actor(queue_name="work")
def short(label):
    note("started", label)
    time.sleep(0.005)
    note("done", label)


@dramatiq.actor(queue_name="work", max_retries=1, min_backoff=200, max_backoff=200)
def twice(label):
    note("started", label)
    if not CurrentMessage.get_current_message().options.get("retries"):
        raise RuntimeError("the first attempt always fails")
    note("done", label)
"""


@dataclass
class Memory:
    """Samples in MB over the seconds since the start."""

    began: float = field(default_factory=time.monotonic)
    lines: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def add(self, name: str, mb: float) -> None:
        """Note one sample: now."""
        self.lines.setdefault(name, []).append((time.monotonic() - self.began, mb))

    def growth(self, name: str) -> tuple[float, float]:
        """The medians of the first and the last quarter after the warm-up."""
        warm = [mb for at, mb in self.lines[name] if at >= WARM_UP_S]
        if len(warm) < 8:  # a run of less than two minutes says nothing about memory
            return 0.0, 0.0
        quarter = len(warm) // 4
        return median(warm[:quarter]), median(warm[-quarter:])

    def grown(self, name: str) -> bool:
        """Whether it is more than the bound allows."""
        first, last = self.growth(name)
        return last - first > GROWTH_MB[name]


class Soak:
    """The server, two workers, the producer, and what is done to them."""

    def __init__(self, folder: Path, stack: ExitStack, seed: int) -> None:
        self._folder = folder
        self._random = random.Random(seed)
        self._server = stack.enter_context(
            EmbeddedValkey(
                folder / "server",
                appendonly=True,
                # The whole file is the record of what was finished.
                config={"auto-aof-rewrite-percentage": "0"},
            )
        )
        self._notebook = stack.enter_context(EmbeddedValkey(folder / "notebook"))
        self._proxy = Proxy(self._server.port)
        stack.callback(self._proxy.close)
        self._namespace = f"soak-{uuid4().hex[:8]}"
        broker = StreamsBroker(url=self._proxy.url, namespace=self._namespace)
        stack.callback(broker.close)
        effects = Effects(self._notebook.url, self._namespace)
        stack.callback(effects.close)
        self.history = History(broker, effects, FinalisationsInFile(self._server.data_dir))
        self._admin = stack.enter_context(redis.Redis.from_url(self._server.url))
        self._workers: dict[str, CommandLine] = {}
        stack.callback(self._close_workers)
        self.memory = Memory()
        self.faults: Counter[str] = Counter()
        self.refused = 0
        self._stop = threading.Event()

    def run(self, seconds: float) -> None:
        """Everything, then wait until it has come to rest."""
        for name in ("kept", "killed"):
            self._launch(name)
        threads = [threading.Thread(target=self._produce), threading.Thread(target=self._sample)]
        for thread in threads:
            thread.start()
        try:
            self._hurt_until(time.monotonic() + seconds)
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
        self.history.settle_down(60)

    def _close_workers(self) -> None:
        for worker in self._workers.values():
            worker.close()

    def _launch(self, name: str) -> None:
        source = application(
            "streams",
            self._server.url,
            self._namespace,
            JOBS,
            notebook=self._notebook.url,
            heartbeat_timeout=LEASE_MS,
        )
        folder = self._folder / f"{name}-{self.faults['1 SIGKILL a worker']}"
        self._workers[name] = CommandLine(folder, source, threads=4)
        self._workers[name].wait_until_ready()

    def _produce(self) -> None:
        number = 0
        began = time.monotonic()
        while not self._stop.wait(max(0.0, began + number / RATE_PER_S - time.monotonic())):
            number += 1
            try:
                if number % 10 == 0:
                    self.history.send("twice", "job")
                else:
                    self.history.send("short", "job", delay=500 if number % 4 == 0 else None)
            except BrokerConnectionError:
                self.refused += 1  # not acknowledged: promised nothing

    def _sample(self) -> None:
        with redis.Redis.from_url(self._server.url, socket_timeout=30) as client:
            while not self._stop.wait(SAMPLE_EVERY_S):
                for name, worker in list(self._workers.items()):
                    resident = _resident_mb(worker)
                    if resident is not None:
                        self.memory.add(f"worker, {name}: resident", resident)
                try:
                    used = int(client.info("memory")["used_memory"])
                except (redis.ConnectionError, redis.TimeoutError):
                    continue
                self.memory.add(SERVER, used / 1e6)

    def _hurt_until(self, end: float) -> None:
        ways: dict[str, Callable[[], None]] = {
            "1 SIGKILL a worker": self._kill,
            "6 SIGSTOP a worker beyond its lease": self._freeze,
            "18 reset before an enqueue's reply": self._cut,
            "23 SIGSTOP the server": self._freeze_server,
            "32 CLIENT KILL TYPE normal": self._kill_connections,
        }
        names = list(ways)
        pause = threading.Event()
        while time.monotonic() < end:
            self._random.shuffle(names)
            for name in names:
                if time.monotonic() >= end:
                    return
                self.history.injure()
                self.faults[name] += 1
                ways[name]()
                pause.wait(FAULT_EVERY_S)

    def _kill(self) -> None:
        self._workers["killed"].kill_everything()
        self._launch("killed")

    def _freeze(self) -> None:
        with frozen(*_worker_pids(self._workers[self._random.choice(["kept", "killed"])])):
            threading.Event().wait(LEASE_MS / 1000 * 1.6)

    def _cut(self) -> None:
        self._proxy.cut(script("enqueue").sha.encode())

    def _freeze_server(self) -> None:
        with frozen(self._server.pid):
            threading.Event().wait(self._random.choice([0.5, LEASE_MS / 1000 * 1.6]))

    def _kill_connections(self) -> None:
        self._admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def _worker_pids(worker: CommandLine) -> list[int]:
    children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text("ascii")
    return [int(pid) for pid in children.split()]


def _resident_mb(worker: CommandLine) -> float | None:
    """The largest of the command's worker processes; None while it is being replaced."""
    sizes = []
    try:
        for pid in _worker_pids(worker):
            status = Path(f"/proc/{pid}/status").read_text("utf-8")
            sizes += [int(line.split()[1]) for line in status.splitlines() if "VmRSS" in line]
    except OSError:
        return None
    return max(sizes) / 1024 if sizes else None


def main(arguments: Sequence[str]) -> int:
    """Run it, say what was found; 1 if an invariant or the bound on memory is violated."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of soak.json and soak.svg")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, ExitStack() as stack:
        soak = Soak(Path(folder), stack, options.seed)
        print(f"{options.minutes:g} minutes of faults at {RATE_PER_S} jobs/s ...", flush=True)
        soak.run(options.minutes * 60)
        broken = _checked(soak.history)
        grown = [name for name in GROWTH_MB if soak.memory.grown(name)]
        _report(soak, options, [*broken, *(f"{name} has grown" for name in grown)])
    return 1 if broken or grown else 0


def _checked(history: History) -> list[str]:
    try:
        history.check(failures=FAILURES_A_MESSAGE, expected_runs=2)
    except AssertionError as violated:
        return [str(violated)[:2000]]
    return []


def _report(soak: Soak, options: argparse.Namespace, violations: list[str]) -> None:
    (found,) = soak.history.findings
    memory = {name: soak.memory.growth(name) for name in soak.memory.lines}
    result = {
        "minutes": options.minutes,
        "jobs_per_s": RATE_PER_S,
        "faults": dict(sorted(soak.faults.items(), key=lambda item: int(item[0].split()[0]))),
        "enqueues_refused": soak.refused,
        **{name: value for name, value in asdict(found).items() if name != "recovered_s"},
        "memory_mb": {
            name: {"after_warm_up": round(first, 1), "at_the_end": round(last, 1)}
            for name, (first, last) in memory.items()
        },
        "violations": violations,
    }
    (options.out / "soak.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    caption = (
        f"{options.minutes:g} minutes, {RATE_PER_S} jobs/s, {sum(soak.faults.values())} faults, "
        f"{found.lost} lost, {found.finalised_twice} finalised twice"
    )
    picture = chart.svg("Memory under faults", soak.memory.lines, caption)
    (options.out / "soak.svg").write_text(picture, encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
