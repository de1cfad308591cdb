"""`headrace dead`: look at dead letters, send them back, drop them."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from broker.cli.application import broker_of
from broker.cli.completion import Queue
from broker.cli.exits import Exit, Failed
from broker.cli.output import AsJson, at, console, counted, facts, lines, said, show
from broker.cli.queues import Yes, known
from broker.dead_filter import DeadFilter
from broker.dead_letter import DeadLetter
from broker.evidence import Reason
from broker.inspector import Inspector

app: Final = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Look at dead letters, redrive, drop them."
)

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="These letters only.")]
DeathReason = Annotated[Reason | None, typer.Option(help="Why they died.")]
ActorName = Annotated[str | None, typer.Option("--actor", help="Their actor.")]
ErrorType = Annotated[str | None, typer.Option(help="The class of the exception.")]
ErrorPart = Annotated[str | None, typer.Option("--error", help="A part of the error's text.")]
OlderThan = Annotated[int | None, typer.Option(min=0, help="Ms since death, at the least.")]
YoungerThan = Annotated[int | None, typer.Option(min=0, help="Ms since death, at the most.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many it would be.")]


@app.command("ls")
def ls(
    ctx: typer.Context,
    queue: Queue,
    reason: DeathReason = None,
    actor: ActorName = None,
    error_type: ErrorType = None,
    error: ErrorPart = None,
    older_than: OlderThan = None,
    younger_than: YoungerThan = None,
    groups: Annotated[bool, typer.Option("--groups", help="Count them by kind instead.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="The most letters of a page.")] = 50,
    after: Annotated[str | None, typer.Option(help="The `next` of the page before.")] = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters, the newest first, or count them by kind."""
    inspector = broker_of(ctx).inspector
    where = _filter(reason, actor, error_type, error, older_than, younger_than)
    known(inspector, queue)
    if groups:
        kinds = inspector.dead_groups(queue, where)
        rows = [
            (k.count, k.reason, k.actor, k.error_type, at(k.oldest_ms), at(k.newest_ms))
            for k in kinds
        ]
        show(kinds, as_json, ("letters", "reason", "actor", "error", "first", "last"), rows)
        return
    page = inspector.dead_page(queue, where, after=after, limit=limit)
    columns = ("id", "died", "reason", "actor", "error")
    letters = [(x.id, at(x.died_at_ms), x.reason, x.actor, x.error) for x in page.letters]
    show(page, as_json, columns, letters)
    if page.next is not None and not as_json:
        typer.echo(f"more: --after {page.next}", err=True)


@app.command("show")
def show_letter(
    ctx: typer.Context,
    queue: Queue,
    id: Annotated[str, typer.Argument(metavar="ID", help="Of the letter, as ls has it.")],
    payload: Annotated[
        bool, typer.Option("--payload", help="Show the arguments too; never those encrypted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter with its evidence."""
    letter = broker_of(ctx).inspector.letter(queue, id)
    if letter is None:
        raise Failed(f"id: there is no dead letter {id!r} in {queue!r}", Exit.NOT_FOUND)
    told = _told(letter, payload)
    facts(told, as_json, {k: v for k, v in told.items() if k not in ("attempts", "traceback")})
    if as_json:
        return
    for attempt in letter.attempts:
        ended = f"{at(attempt.ended_at_ms)} {attempt.worker}: {attempt.error or 'unsettled'}"
        console().print(lines(ended), markup=False, highlight=False)
    console().print(lines(letter.traceback), markup=False, highlight=False)


def _told(letter: DeadLetter, payload: bool) -> dict[str, Any]:
    hidden = ("message", "fields", "trail")
    told = {n: getattr(letter, n) for n in DeadLetter.__slots__ if n not in hidden}
    told["died_at"] = at(letter.died_at_ms)
    told |= {
        name: getattr(letter, name)
        for name in ("correlation_id", "trace_id", "redrives", "redriven_at_ms", "sealed")
    }
    if payload and letter.message is not None:
        told |= {"args": list(letter.message.args), "kwargs": letter.message.kwargs}
    return told


@app.command()
def redrive(
    ctx: typer.Context,
    queue: Queue,
    ids: Ids = None,
    reason: DeathReason = None,
    actor: ActorName = None,
    error_type: ErrorType = None,
    error: ErrorPart = None,
    older_than: OlderThan = None,
    younger_than: YoungerThan = None,
    per_second: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Send dead letters back to their queue as new: these, or all that the options match.

    Interrupted it has moved some; run it again, and it moves the rest. None moves twice.
    """
    inspector = broker_of(ctx).inspector
    where = _filter(reason, actor, error_type, error, older_than, younger_than)
    known(inspector, queue)
    total = _counted(inspector, queue, ids, where)
    if dry_run:
        said({"would_move": total}, as_json, f"would move {total}")
        return
    steps = inspector.redriving(queue, ids or None, where=where, per_second=per_second)
    moved = counted("redriving", steps, total, as_json)
    said({"moved": moved}, as_json, f"moved {moved}")


@app.command()
def purge(
    ctx: typer.Context,
    queue: Queue,
    ids: Ids = None,
    reason: DeathReason = None,
    actor: ActorName = None,
    error_type: ErrorType = None,
    error: ErrorPart = None,
    older_than: OlderThan = None,
    younger_than: YoungerThan = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Drop dead letters: these, or all that the options match. There is no way back."""
    inspector = broker_of(ctx).inspector
    where = _filter(reason, actor, error_type, error, older_than, younger_than)
    total = _counted(inspector, known(inspector, queue), ids, where)
    if dry_run:
        said({"would_drop": total}, as_json, f"would drop {total}")
        return
    if not yes:
        typer.confirm(f"Drop {total} dead letters of {queue}?", abort=True, err=True)
    steps = inspector.dropping_dead(queue, ids or None, where=where)
    dropped = counted("purging", steps, total, as_json)
    said({"dropped": dropped}, as_json, f"dropped {dropped}")


def _counted(inspector: Inspector, queue: str, ids: list[str] | None, where: DeadFilter) -> int:
    if ids:
        found = sum(inspector.letter(queue, id) is not None for id in ids)
        if not found:
            named = " ".join(map(repr, ids))
            raise Failed(f"id: there is no dead letter {named} in {queue!r}", Exit.NOT_FOUND)
        return found
    if where == DeadFilter():
        return inspector.queue(queue).dead
    return sum(group.count for group in inspector.dead_groups(queue, where))


def _filter(
    reason: Reason | None,
    actor: str | None,
    error_type: str | None,
    error: str | None,
    older_than: int | None,
    younger_than: int | None,
) -> DeadFilter:
    return DeadFilter(
        reason=reason,
        actor=actor,
        error_type=error_type,
        error=error,
        older_than_ms=older_than,
        younger_than_ms=younger_than,
    )
