"""`headrace jobs`: look at jobs, wait for them, cancel, retry, promote and enqueue them."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, Final

import typer

from broker.broker import StreamsBroker
from broker.cli.application import application, broker_of
from broker.cli.completion import Queue, actors
from broker.cli.exits import Exit, Failed
from broker.cli.output import AsJson, at, facts, lasting, said, show
from broker.cli.queues import known
from broker.errors import InvalidOption
from broker.job_record import JobRecord, State
from broker.jobs import JobUnknown

app: Final = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Look at jobs, cancel, retry, enqueue them."
)

_LONGEST_PAGE: Final = 10_000
#: Parameters of a send that are no options of the message.
_NO_OPTIONS: Final = ("self", "args", "kwargs", "delay")

Id = Annotated[str, typer.Argument(metavar="ID", help="Of the job: its message's id.")]


@app.command("ls")
def ls(
    ctx: typer.Context,
    queue: Queue,
    state: Annotated[State, typer.Option(help="In which state.")] = State.QUEUED,
    limit: Annotated[
        int, typer.Option(min=1, max=_LONGEST_PAGE, help="The most jobs of a page.")
    ] = 50,
    after: Annotated[str | None, typer.Option(help="The `cursor` of the page before.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the jobs of a queue that are in one state."""
    broker = broker_of(ctx)
    page = broker.jobs.list(known(broker.inspector, queue), state, after, limit)
    columns = ("id", "actor", "attempts", "sent", "due", "started", "ended", "error")
    show(page, as_json, columns, map(_row, page.records))
    if page.cursor is not None and not as_json:
        typer.echo(f"more: --after {page.cursor}", err=True)


def _row(job: JobRecord) -> tuple[object, ...]:
    times = (job.queued_at, job.due_at, job.started_at, job.finished_at)
    return job.id, job.actor, job.attempts, *map(at, times), job.error


@app.command("show")
def show_job(ctx: typer.Context, id: Id, as_json: AsJson = False) -> None:
    """Show a job's record."""
    _tell(_found(broker_of(ctx), id), as_json)


@app.command()
def wait(
    ctx: typer.Context,
    id: Id,
    timeout: Annotated[int, typer.Option(min=0, help="The longest wait, in ms.")] = 60_000,
    as_json: AsJson = False,
) -> None:
    """Wait until a job has ended; the exit status is 1 if it is dead or cancelled then."""
    record = broker_of(ctx).jobs.wait(id, timeout)
    _tell(record, as_json)
    if record.state is not State.COMPLETED:
        raise typer.Exit(Exit.FAILED)


@app.command()
def cancel(ctx: typer.Context, id: Id, as_json: AsJson = False) -> None:
    """Cancel a job that waits, or interrupt one that runs."""
    broker = broker_of(ctx)
    record = _found(broker, id)
    if not broker.jobs.cancel(id):
        raise Failed(f"job {id!r} is {record.state.value}")
    running = record.state is State.RUNNING
    told = "its worker is asked to end it" if running else "cancelled"
    said({"cancelled": not running, "asked": running}, as_json, told)


@app.command()
def retry(ctx: typer.Context, id: Id, as_json: AsJson = False) -> None:
    """Run a dead job again, or one that waits for its next attempt now."""
    broker = broker_of(ctx)
    record = _found(broker, id)
    if record.state is State.DEAD:
        # Its letter may lie among those of another queue: `dead_queue`.
        names = (record.queue, *broker.inspector.queues())
        done = any(broker.inspector.redrive(name, [id]) > 0 for name in names)
    else:
        done = record.state is State.RETRYING and broker.jobs.promote(id)
    if not done:
        raise Failed(f"job {id!r} is {record.state.value}, neither dead nor retrying")
    said({"retried": True}, as_json, "retried")


@app.command()
def promote(ctx: typer.Context, id: Id, as_json: AsJson = False) -> None:
    """Run a scheduled job now."""
    broker = broker_of(ctx)
    record = _found(broker, id)
    if not broker.jobs.promote(id):
        raise Failed(f"job {id!r} is {record.state.value}, not scheduled")
    said({"promoted": True}, as_json, "promoted")


@app.command()
def enqueue(
    ctx: typer.Context,
    actor: Annotated[str, typer.Argument(metavar="ACTOR", autocompletion=actors)],
    arguments: Annotated[
        str,
        typer.Argument(metavar="JSON", help="An array of arguments, or one object; - is stdin."),
    ] = "[]",
    kwargs: Annotated[str, typer.Option(help="Named arguments, a JSON object.")] = "{}",
    delay: Annotated[int | None, typer.Option(min=0, help="Ms to wait at least.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=JSON", help="As in broker_priority=2.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Enqueue a job of the application (--app, by default `actors`); prints its id.

    Arguments are checked as in a send: what breaks a rule is not enqueued.
    """
    declared = application(ctx).actor(actor)
    text = sys.stdin.read() if arguments == "-" else arguments
    given = _json("JSON", text)
    message = declared.send_with_options(
        args=tuple(given) if isinstance(given, list) else (given,),
        kwargs=_object("--kwargs", kwargs),
        delay=delay,
        **dict(_option(each) for each in option or ()),
    )
    said({"id": message.message_id, "queue": message.queue_name}, as_json, message.message_id)


def _found(broker: StreamsBroker, id: str) -> JobRecord:
    record = broker.jobs.get(id)
    if record is None:
        raise JobUnknown(id)
    return record


def _tell(job: JobRecord, as_json: bool) -> None:
    told = {name: getattr(job, name) for name in JobRecord.__slots__}
    told |= {"wait_ms": job.wait_ms, "run_ms": job.run_ms}
    pairs = {
        **{name: at(fact) if name.endswith("_at") else fact for name, fact in told.items()},
        "state": job.state.value,
        "wait_ms": lasting(job.wait_ms),
        "run_ms": lasting(job.run_ms),
        "cancel_requested": job.cancel_requested or None,
    }
    facts(told, as_json, {name.removesuffix("_ms"): fact for name, fact in pairs.items()})


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidOption("--option", text, "must be NAME=JSON")
    if name in _NO_OPTIONS:
        rule = "must name an option of the message; JSON, --kwargs and --delay say the rest"
        raise InvalidOption("--option", name, rule)
    return name, _json(f"--option {name}", value)


def _object(field: str, text: str) -> dict[str, Any]:
    found = _json(field, text)
    if not isinstance(found, dict):
        raise InvalidOption(field, text, "must be a JSON object")
    return found


def _json(field: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        # Not the text: it may be private.
        raise InvalidOption(field, "...", f"must be JSON ({error})") from None
