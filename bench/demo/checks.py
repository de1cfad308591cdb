"""What the broker and its middleware promised: each is checked by what was seen of the jobs.

A check is a line that says what was measured, and a fault for each thing that does not hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from bench.demo.control import CHAIN, LATE_REASON, Control
from bench.demo.evidence import Evidence
from bench.demo.jobs import RATE
from bench.demo.pictures import check_image
from bench.demo.workload import FLAKY_TITLE, Workload
from broker import JobRecord, State

CANCELLED_WITHIN_MS = 1_000
ON_THE_WAY_MS = 100
"""From the server's word to the job's own clock, where the machine is busy: a period is shorter
by so much when starts are counted, or a late first start would look like an early second one."""
LATEST_MS = 5_000
"""How long after its time the last job of a limit may start."""
IN_CLEAR = ("@users.example.org", "your account is ready", FLAKY_TITLE)
"""Parts of what the jobs carry, which nobody may read in the server or a log."""
ROUTING = "send_notification"
"""What stays readable: it shows that the search looks at the right place."""
LOG_FIELDS = ("timestamp", "correlationId", "level", "event", "data")


@dataclass(frozen=True, slots=True)
class Check:
    """One promise: what was measured, and what breaks it."""

    name: str
    line: str
    faults: list[str]

    def __str__(self) -> str:
        return f"{self.name}: {'does not hold, see below' if self.faults else self.line}"


def check_all(workload: Workload, control: Control, evidence: Evidence) -> list[Check]:
    """Every check, in the order in which they are shown."""
    return [
        check_states(workload, control, evidence),
        check_limit(control, evidence),
        check_cancelled(control, evidence),
        check_deduplicated(control),
        check_redriven(control, evidence),
        check_encrypted(control),
        check_correlated(control),
        check_logged(workload, control, evidence),
    ]


# ---- states


def check_states(workload: Workload, control: Control, evidence: Evidence) -> Check:
    """Each state was seen when a job was in it, and every record agrees with what happened."""
    seen = control.observed.states
    faults = list(_unseen(seen))
    for job in workload.jobs:
        faults += _record_faults(job.id, workload, control, evidence)
    names = " ".join(state.value for state in State if state in seen)
    count = sum(1 for _ in workload.jobs)
    line = f"seen {names}; {count} records agree with what the jobs did"
    return Check("states", line, faults)


def _unseen(seen: dict[State, list[State | None]]) -> Iterator[str]:
    for state in State:
        found = seen.get(state)
        if not found:
            yield f"no job was seen {state.value}"
        elif any(each is not state for each in found):
            names = sorted({"without a record" if each is None else each.value for each in found})
            yield f"{', '.join(names)} when it should have been {state.value}"


def _record_faults(
    id: str, workload: Workload, control: Control, evidence: Evidence
) -> Iterator[str]:
    record, history = control.observed.records.get(id), evidence.history
    if record is None:
        yield f"job {id}: no record"
        return
    expected = State.DEAD if id in workload.deaths else State.COMPLETED
    if record.state is not expected:
        yield f"job {id}: {record.state.value}, expected {expected.value}"
        return
    if not _in_order(record):
        yield f"job {id}: its times are not in order: {record}"
    ends = Counter(end.kind for end in history.ends.get(id, ()))
    # A run that a kill or a shutdown cut short may or may not have been settled.
    # And of two that came to a good end the first one's worker was killed before it could say so.
    whole = len(history.starts.get(id, ())) == ends["done"] + ends["failed"] and ends["done"] == 1
    if expected is State.COMPLETED and whole and record.attempts != ends["done"] + ends["failed"]:
        yield f"job {id}: {record.attempts} attempts, it ran {ends['done'] + ends['failed']} times"


def _in_order(record: JobRecord) -> bool:
    times = [record.queued_at, record.started_at, record.finished_at]
    known = [each for each in times if each is not None]
    return len(known) == len(times) and known == sorted(known)


# ---- a limit, a cancelled job, a repeated send, a redrive


def check_limit(control: Control, evidence: Evidence) -> Check:
    """No period has more starts than the limit, each job ran once, and none lost an attempt."""
    ids = [message.message_id for message in control.limited]
    starts = sorted(at for id in ids for at in evidence.history.noted_ms(id, "started"))
    faults = [
        f"limited job {id}: started {times} times"
        for id in ids
        if (times := len(evidence.history.noted_ms(id, "started"))) != 1
    ]
    faults += list(_attempt_faults(ids, control))
    if len(starts) < 2:
        return Check("limit", "no spacing to measure", [*faults, "fewer than two jobs started"])
    period_ms = RATE.per_ms - ON_THE_WAY_MS
    most = max(sum(first <= at < first + period_ms for at in starts) for first in starts)
    if most > RATE.limit:
        faults.append(f"{most} starts in {period_ms} ms, the limit is {RATE.limit}")
    took_ms, due_ms = starts[-1] - starts[0], (len(starts) - 1) * RATE.interval_us // 1_000
    if took_ms > due_ms + LATEST_MS:
        faults.append(f"{len(starts)} starts took {took_ms} ms, their time was {due_ms} ms")
    gaps = [later - earlier for earlier, later in pairwise(starts)]
    line = (
        f"{RATE.limit} in {RATE.per_ms} ms for one key: {len(starts)} jobs that were sent at once "
        f"started {min(gaps)} to {max(gaps)} ms apart (median {median(gaps):.0f}); "
        "each in its first attempt"
    )
    return Check("limit", line, faults)


def _attempt_faults(ids: list[str], control: Control) -> Iterator[str]:
    for id in ids:
        record = control.observed.records.get(id)
        attempts = 0 if record is None else record.attempts
        if attempts != 1:
            yield f"limited job {id}: {attempts} attempts in its record, expected 1"


def check_cancelled(control: Control, evidence: Evidence) -> Check:
    """The running job was interrupted in time, and was neither failed nor tried again."""
    id, observed = control.endless.message_id, control.observed
    faults = [] if observed.cancelled else ["the broker did not take the request"]
    interrupted = evidence.history.noted_ms(id, "cancelled")
    after_ms = interrupted[0] - observed.cancel_asked_ms if interrupted else None
    if after_ms is None:
        faults.append(f"job {id}: nothing was raised in it")
    elif after_ms > CANCELLED_WITHIN_MS:
        faults.append(f"job {id}: interrupted after {after_ms} ms, not {CANCELLED_WITHIN_MS}")
    faults += list(_event_faults(id, ["queued", "started", "cancelled"], observed.events))
    line = f"a running job was interrupted {after_ms} ms after somebody asked, and not tried again"
    return Check("cancelled", line, faults)


def check_deduplicated(control: Control) -> Check:
    """All sends but the first were told the first one's id; the sink has only that push."""
    first, *others = [message.message_id for message in control.pushes]
    sent, records = control.observed.sent_ids, control.observed.records
    faults = [
        f"send {number} of the same key: returned {id}, expected the first one's {first}"
        for number, id in enumerate(sent, start=1)
        if id != first
    ]
    if len(sent) != len(control.pushes):
        faults.append(f"{len(sent)} sends, expected {len(control.pushes)}")
    faults += [
        f"job {id}: has a record, though it was a repeat" for id in others if records.get(id)
    ]
    line = f"{len(sent)} sends of one key made {len(set(sent))} job and one push"
    return Check("deduplicated", line, faults)


def check_redriven(control: Control, evidence: Evidence) -> Check:
    """The job died for want of a file, and succeeded once that was there and it came back."""
    id, observed = control.late.message_id, control.observed
    letter, faults = observed.letter, []
    if letter is None:
        faults.append(f"job {id}: no dead letter")
    elif letter.reason != LATE_REASON or len(letter.attempts) != 2:
        faults.append(
            f"dead letter {id}: {letter.reason!r} after {len(letter.attempts)} attempts, "
            f"expected {LATE_REASON!r} after 2"
        )
    if observed.redriven != 1:
        faults.append(f"{observed.redriven} letters were redriven, expected 1")
    course = ["queued", "started", "failed", "retrying", "started", "failed", "dead"]
    course += ["redriven", "started", "completed"]
    faults += list(_event_faults(id, course, observed.events))
    faults += check_image(control.late_case, evidence.storage)
    line = "a job that failed twice for want of a file was dead, was redriven, and made its image"
    return Check("redriven", line, faults)


def _event_faults(id: str, expected: list[str], events: dict[str, list[str]]) -> Iterator[str]:
    found = events.get(id, [])
    if found != expected:
        yield f"job {id}: events {' '.join(found) or 'none'}, expected {' '.join(expected)}"


# ---- encryption, correlation, logs


def check_encrypted(control: Control) -> Check:
    """Nothing of a payload is in what the server wrote to its disk."""
    stored = control.observed.stored
    faults = [
        f"{text!r} is readable in the server's append-only file"
        for text in IN_CLEAR
        if text.encode() in stored
    ]
    if ROUTING.encode() not in stored:
        faults.append(f"{ROUTING!r} is not in the server's append-only file: nothing was looked at")
    size = f"{len(stored) / 1_000_000:.1f} MB"
    return Check(
        "encryption", f"no address or text of a job in {size} that the server wrote", faults
    )


def check_correlated(control: Control) -> Check:
    """The jobs and what they sent bear one id, in their records and in every line of the log."""
    ids = {message.message_id for message in control.messages}
    records, lines = control.observed.records, control.observed.log
    faults = [
        f"job {id}: its record has the chain {found!r}, expected {CHAIN!r}"
        for id in sorted(ids)
        if (found := _chain(records.get(id))) != CHAIN
    ]
    for line in lines:
        if _job(line) in ids and line["correlationId"] != CHAIN:
            faults.append(f"line {line}: expected the chain {CHAIN!r}")
    of_chain = [line for line in lines if line["correlationId"] == CHAIN]
    nested = {id for line in of_chain if (id := _job(line)) is not None} - ids
    if len(nested) != 1:
        faults.append(f"{len(nested)} jobs that others have sent are in the log, expected 1")
    told = (
        f"{len(ids)} jobs and {len(nested)} that one of them sent have one id, "
        f"in their records and in {len(of_chain)} lines of the log"
    )
    return Check("correlation", told, faults)


def check_logged(workload: Workload, control: Control, evidence: Evidence) -> Check:
    """Each line has its fields, each job that was done its line, and no line has a payload."""
    lines = control.observed.log
    # Those beside the killer may have died with lines that were not written yet.
    steady = {job.id for job in (*workload.work, *workload.prioritised)}
    done = {id for id in steady if evidence.history.done(id)}
    logged = {_job(line) for line in lines if line.get("event") == "job_completed"}
    faults = [f"job {id}: done, and not in the log" for id in sorted(done - logged)]
    faults += [
        f"line {line}: without {', '.join(missing)}"
        for line in lines
        if (missing := [name for name in LOG_FIELDS if name not in line])
    ]
    faults += [
        f"line {line}: shows {text!r}" for line in lines for text in IN_CLEAR if text in str(line)
    ]
    told = f"{len(lines)} lines of JSON, one for each job that was done, none with a payload"
    return Check("logs", told, faults)


def _chain(record: JobRecord | None) -> str | None:
    return None if record is None else record.correlation_id


def _job(line: dict[str, Any]) -> str | None:
    id = line.get("data", {}).get("jobId")
    return id if isinstance(id, str) else None
