"""`python -m bench.demo`, `make demo`: 0 if every expected effect is there, 1 if not."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from bench.demo.access import Access, check_access
from bench.demo.checks import Check, check_all
from bench.demo.control import Control, add_to
from bench.demo.evidence import Evidence
from bench.demo.flows import Flows, check_flows, plan
from bench.demo.report import Display, show_summary
from bench.demo.run import Run, WorkersGone
from bench.demo.stage import Stage
from bench.demo.telemetry import Telemetry
from bench.demo.telemetry import show as show_trace
from bench.demo.verify import verify
from bench.demo.workers import Program
from bench.demo.workload import Workload, build
from broker import StreamsBroker
from dashboard.serving import Server
from dashboard.settings import DashboardSettings

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """Somebody wants the demo to end; not an Exception, so that nothing on the way keeps it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main() -> int:
    """Run the demo; its exit status, 128 + n when signal n interrupted it."""
    arguments = _parser().parse_args()
    console = Console(width=None if sys.stdout.isatty() else 110)
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="headrace-demo-") as folder:
            return demo(
                Path(folder),
                console,
                arguments.scale,
                arguments.timeout,
                arguments.telemetry,
                serves=arguments.serve,
            )
    except Interrupted as interrupted:
        console.print("Interrupted; everything is stopped.", highlight=False)
        return 128 + interrupted.number


def demo(
    folder: Path,
    console: Console,
    scale: float,
    timeout_s: float,
    spans: Path | None = None,
    *,
    serves: bool = False,
) -> int:
    """Everything in `folder`; no process is left when it returns or raises.

    `spans` is a file for the spans of all processes; None: there are none. `serves`: at the end
    the dashboard shows what is left, until a signal.
    """
    workload = build(scale)
    control = add_to(workload)
    flows = plan(scale)
    _store(folder / "storage", workload)
    with ExitStack() as stack:
        telemetry = None if spans is None else stack.enter_context(Telemetry(spans))
        stage = Stage.up(stack, folder, {} if telemetry is None else telemetry.environment)
        display = Display(console)
        run = Run(workload, control, flows, stage, display, folder=folder, timeout_s=timeout_s)
        try:
            with display.running():
                run.drive()
            trace = None if telemetry is None else telemetry.follow(stage.brokers.producer)
        except WorkersGone as gone:
            console.print(f"{gone}", style="bold red", markup=False)
            _show_log(console, stage.workers)
            return 1
        worker_deaths, status = len(stage.workers.deaths), stage.workers.stop()
        evidence = run.gather()
        checks = _checked(stage, workload, control, flows, evidence)
        verdict = verify(workload, evidence)
        verdict.faults.extend(
            f"{check.name}: {fault}" for check in checks for fault in check.faults
        )
        if status != 0:
            verdict.faults.append(f"workers: exit status {status} when asked to stop, expected 0")
        show_summary(
            *(console, workload, evidence, verdict, checks),
            worker_deaths=worker_deaths,
            elapsed_s=run.elapsed_s,
        )
        for tree in flows.trees():
            console.print(f"\n{tree}", highlight=False, markup=False, soft_wrap=True)
        if telemetry is not None and trace is not None:
            show_trace(console, trace)
            console.print(f"{telemetry.write()} spans in {spans}", highlight=False)
        if verdict.faults:
            _show_log(console, stage.workers)
        if serves:
            _serve(stage.brokers.operator, console)
        return 1 if verdict.faults else 0


def _checked(
    stage: Stage, workload: Workload, control: Control, flows: Flows, evidence: Evidence
) -> list[Check]:
    """What is there once the workers are gone, beside the evidence, checked."""
    control.gather(stage.brokers.viewer, workload, stage.workers.log, stage.server.data_dir)
    flows.gather(stage.brokers, evidence)
    seen = Access()
    with _served(stage.brokers.viewer, DashboardSettings(port=0)) as url:
        seen.read_pages(url, evidence.leftovers)
    seen.gather(stage.users, evidence.history, workload.work[0].message.queue_name)
    return [
        *check_all(workload, control, evidence),
        check_flows(flows, evidence.storage),
        check_access(seen),
    ]


def _serve(broker: StreamsBroker, console: Console) -> None:
    with _served(broker, DashboardSettings.load()) as url:
        console.print(f"What is left is at {url} until Ctrl-C.", highlight=False)
        try:
            threading.Event().wait()
        except Interrupted:
            console.print("The dashboard is stopped.", highlight=False)


@contextmanager
def _served(broker: StreamsBroker, settings: DashboardSettings) -> Iterator[str]:
    server = Server(broker, settings)
    thread = threading.Thread(target=server.run, name="dashboard", daemon=True)
    thread.start()
    try:
        yield server.url
    finally:
        server.close()
        thread.join()


def _show_log(console: Console, workers: Program) -> None:
    text = f"The end of the workers' log:\n{workers.tail()}"
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _store(storage: Path, workload: Workload) -> None:
    for path, data in workload.sources.items():
        target = storage / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.demo", description=__doc__)
    parser.add_argument(
        "--scale", type=_positive, default=1.0, help="how many jobs, relative to the usual"
    )
    parser.add_argument(
        "--timeout",
        type=_positive,
        default=90.0,
        help="seconds to wait for the jobs before saying what is missing",
    )
    parser.add_argument(
        "--telemetry",
        metavar="FILE",
        nargs="?",
        type=Path,
        const=Path("demo-spans.jsonl"),
        help="write all spans to a file, and show the trace of one job as a tree",
    )
    parser.add_argument(
        "--serve", action="store_true", help="serve the dashboard over what is left, until Ctrl-C"
    )
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Leaving takes a moment, and a second signal must not cut it short.
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(number)


if __name__ == "__main__":
    sys.exit(main())
