"""`headrace flows`: how far a flow is."""

from __future__ import annotations

from typing import Annotated, Final

import typer
from rich.text import Text
from rich.tree import Tree

from broker.cli.application import broker_of
from broker.cli.exits import Exit
from broker.cli.output import AsJson, console, emit, lasting, printable
from pipelines.flows import FlowUnknown, get
from pipelines.state import FlowRecord, StepRecord

app: Final = typer.Typer(no_args_is_help=True, add_completion=False, help="Look at flows.")


@app.callback()
def group() -> None:
    """A group, though it has one command."""


@app.command()
def show(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(metavar="ID", help="Of the flow, as start() returned it.")],
    as_json: AsJson = False,
) -> None:
    """Show a flow as a tree: each step under the first one that it waits for.

    The exit status is 1 if it has failed.
    """
    record = get(id, broker=broker_of(ctx))
    if record is None:
        raise FlowUnknown(id)
    if as_json:
        emit(record)
    else:
        console().print(_tree(record))
    if record.state == "failed":
        raise typer.Exit(Exit.FAILED)


def _tree(flow: FlowRecord) -> Tree:
    head = f"{flow.name or 'flow'} {flow.id}: {flow.state}"
    tree = Tree(Text(printable(head if flow.error is None else f"{head}: {flow.error}")))
    parents: dict[int, list[StepRecord]] = {step.number: [] for step in flow.steps}
    for step in flow.steps:
        for number in step.next:
            parents[number].append(step)
    branches: dict[int, Tree] = {}
    for step in _by_depth(flow.steps, parents):
        after = parents[step.number]
        trunk = branches[after[0].number] if after else tree
        branches[step.number] = trunk.add(Text(printable(_line(step, after))))
    return tree


def _by_depth(
    steps: tuple[StepRecord, ...], parents: dict[int, list[StepRecord]]
) -> list[StepRecord]:
    """Every step after all that it waits for; a flow has no circles."""
    placed: dict[int, StepRecord] = {}
    while len(placed) < len(steps):
        for step in steps:
            if step.number not in placed and all(p.number in placed for p in parents[step.number]):
                placed[step.number] = step
    return list(placed.values())


def _line(step: StepRecord, after: list[StepRecord]) -> str:
    parts = [f"{step.name}: {step.state}"]
    if step.size > 1:
        parts.append(f"{step.done} of {step.size} done, {step.failed} failed")
    if step.run_ms is not None:
        parts.append(lasting(step.run_ms))
    if len(after) > 1:
        parts.append(f"after {', '.join(each.name for each in after)}")
    parts += [f"#{number} {error}" for number, error in step.errors.items()]
    return "; ".join(parts)
