"""Measure Headrace and its peers in one run on one embedded server.

Everything is measured in turns, so that whatever slows the machine slows all of them. Only
the ratios say anything about another machine.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from bench import machine, plot, report
from bench.catalogue import MEASUREMENTS, chosen
from bench.figure import Figure
from bench.run import QUICK, WHOLE, Run
from broker.embedded import EmbeddedValkey

TABLE_WIDTH = 140
FOLDER = Path(__file__).parent


def main() -> int:
    """The exit code: 1 if a measurement failed, whatever the figures are."""
    arguments = _arguments()
    console = Console()
    console.width = max(console.width, TABLE_WIDTH)  # a file or a pipe has no width
    size = QUICK if arguments.quick else WHOLE
    load = machine.load()
    if load > machine.QUIET_LOAD:
        console.print(f"The machine is busy (load {load:.2f}): expect figures to vary.")
    with EmbeddedValkey() as server:
        versions = machine.versions(server.url)
        run = Run(server, size, lambda line: console.print(f"  {line}", highlight=False))
        figures, failed = _measure(run, chosen(arguments.only, short=arguments.short), console)
    about = report.about(
        size=size,
        versions=versions,
        machine=machine.facts(),
        load_before=round(load, 2),
        date=datetime.now(UTC).date().isoformat(),
    )
    facts = about["machine"]
    caption = (
        f"{', '.join(f'{name} {number}' for name, number in versions.items())}; {facts['cpu']}, "
        f"{facts['cores']} cores; {size.rounds} rounds of {size.jobs:,} jobs"
    )
    console.print(report.table(figures))
    console.print(f"\n{caption}", highlight=False)
    folder = _folder(arguments)
    # With one that failed they would be a part of them as well.
    if folder is not None and not (failed and folder == FOLDER):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_text(report.as_json(figures, about), encoding="utf-8")
        (folder / "results.svg").write_text(plot.svg(figures, caption), encoding="utf-8")
    for name, error in failed.items():
        console.print(f"{name} failed: {type(error).__name__}: {error}", markup=False)
    return 1 if failed else 0


def _measure(
    run: Run, names: list[str], console: Console
) -> tuple[list[Figure], dict[str, Exception]]:
    """A measurement that fails does not take the others along."""
    figures: list[Figure] = []
    failed: dict[str, Exception] = {}
    for name in names:
        console.print(name)
        try:
            figures += MEASUREMENTS[name](run)
        except Exception as error:
            failed[name] = error
            run.clean()
    return figures, failed


def _folder(arguments: argparse.Namespace) -> Path | None:
    """Where the results go; a part of them, or figures that say nothing, replace no others."""
    if arguments.output is not None:
        return Path(arguments.output)
    return None if arguments.quick or arguments.short or arguments.only else FOLDER


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="see that all of it works; the figures say nothing"
    )
    parser.add_argument(
        "--short", action="store_true", help="without the backlog of a million: minutes less"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=list(MEASUREMENTS),
        help="only this; may be repeated",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="where results.json and results.svg go; bench/ by default, and nowhere with "
        "--quick, --short or --only",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
