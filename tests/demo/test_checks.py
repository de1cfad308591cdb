"""The demo's checks are themselves checked: each promise that is broken is named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from dramatiq import Message

from bench.demo import checks
from bench.demo.checks import Check, check_all
from bench.demo.control import CHAIN, Control, add_to
from bench.demo.evidence import Evidence
from bench.demo.journal import Event
from bench.demo.workload import FLAKY_TITLE, Workload, build
from broker import JobRecord, State
from broker.dead_letter import DeadLetter
from broker.evidence import Attempt
from tests.demo.test_verify import history, process

PID, ASKED_MS, INTERVAL_MS = 1, 50_000, 202
COURSE = "queued started failed retrying started failed dead redriven started completed"


class Case:
    """A run in which everything was as it should be."""

    def __init__(self, workload: Workload, control: Control, storage: Path) -> None:
        self.workload = workload
        self.control = control
        self.evidence = Evidence(storage)
        self.evidence.history, self.evidence.due_ms = history(workload)
        self._observe()
        self._note()

    def _observe(self) -> None:
        control, seen = self.control, self.control.observed
        for job in self.workload.jobs:
            dead = job.id in self.workload.deaths
            self.record(job.message, State.DEAD if dead else State.COMPLETED, chain=job.id)
        for message in control.messages:
            self.record(message, State.COMPLETED)
        self.record(control.endless, State.CANCELLED)
        seen.states = {state: [state] for state in State}
        seen.sent_ids = [control.pushes[0].message_id] * len(control.pushes)
        seen.cancelled, seen.cancel_asked_ms, seen.redriven = True, ASKED_MS, 1
        seen.letter = letter(control.late)
        seen.events = {
            control.late.message_id: COURSE.split(),
            control.endless.message_id: ["queued", "started", "cancelled"],
        }
        seen.stored = b"actor send_notification sealed ..."
        seen.log = [self.line(job.id, job.id) for job in self.workload.jobs]
        seen.log += [self.line(message.message_id, CHAIN) for message in control.messages]
        seen.log.append(self.line("nested", CHAIN))

    def _note(self) -> None:
        for number, message in enumerate(self.control.limited):
            self.note(message, "started", 10_000 + INTERVAL_MS * number)
        self.note(self.control.endless, "started", ASKED_MS - 100)
        self.note(self.control.endless, "cancelled", ASKED_MS + 60)

    def note(self, message: Message[object], text: str, at_ms: int) -> None:
        noted = Event(kind="noted", at_ms=at_ms, pid=PID, message_id=message.message_id, note=text)
        self.evidence.history.add([noted])

    def record(
        self, message: Message[object], state: State, *, chain: str = CHAIN, attempts: int = 1
    ) -> None:
        self.control.observed.records[message.message_id] = JobRecord(
            id=message.message_id,
            queue=message.queue_name,
            state=state,
            actor=message.actor_name,
            attempts=attempts,
            deliveries=1,
            queued_at=1_000,
            due_at=None,
            started_at=2_000,
            finished_at=3_000,
            worker="host:1",
            progress=None,
            note="",
            error="",
            correlation_id=chain,
            trace_id=None,
            cancel_requested=False,
        )

    def line(self, id: str, chain: str) -> dict[str, object]:
        return {
            "timestamp": "2026-11-24T15:48:43.393Z",
            "correlationId": chain,
            "level": "info",
            "event": "job_completed",
            "data": {"jobId": id},
        }

    def faults(self) -> list[str]:
        made = check_all(self.workload, self.control, self.evidence)
        return [f"{check.name}: {fault}" for check in made for fault in check.faults]

    def only_fault(self) -> str:
        found = self.faults()
        assert len(found) == 1, found
        return found[0]


def letter(message: Message[object]) -> DeadLetter:
    attempt = Attempt(ended_at_ms=1, worker="host:1", error="FileNotFoundError")
    return DeadLetter(
        id=message.message_id,
        queue=message.queue_name,
        reason="retries_exhausted",
        error_type="QueueProcessingError",
        error="",
        traceback="",
        attempts=[attempt, attempt],
        died_at_ms=1,
        deliveries=1,
        level=0,
        deduplication_key="",
        actor=message.actor_name,
        message=message,
        fields={},
        trail=b"",
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workload, Control, bytes]:
    """Drawing the images takes a while."""
    workload = build(0.01)
    control = add_to(workload)
    folder = tmp_path_factory.mktemp("made")
    process(control.late_case, folder)
    return workload, control, (folder / control.late_case.output).read_bytes()


@pytest.fixture
def case(made: tuple[Workload, Control, bytes], tmp_path: Path) -> Case:
    workload, control, image = copy.deepcopy(made)
    output = tmp_path / control.late_case.output
    output.parent.mkdir()
    output.write_bytes(image)
    return Case(workload, control, tmp_path)


def test_nothing_is_wrong_when_every_promise_was_kept(case: Case) -> None:
    assert case.faults() == []
    lines = [str(each) for each in check_all(case.workload, case.control, case.evidence)]
    assert [line.partition(":")[0] for line in lines] == [
        "states",
        "limit",
        "cancelled",
        "deduplicated",
        "redriven",
        "encryption",
        "correlation",
        "logs",
    ]


# -- states


@pytest.mark.parametrize("state", State)
def test_a_state_that_was_not_seen_is_named(case: Case, state: State) -> None:
    del case.control.observed.states[state]
    assert case.only_fault() == f"states: no job was seen {state.value}"


def test_another_state_than_it_should_be_is_named(case: Case) -> None:
    case.control.observed.states[State.RUNNING] = [State.QUEUED]
    assert case.only_fault() == "states: queued when it should have been running"


def test_a_record_that_says_otherwise_than_what_happened_is_named(case: Case) -> None:
    job = case.workload.work[0]
    case.record(job.message, State.RUNNING)
    assert case.only_fault() == f"states: job {job.id}: running, expected completed"


def test_a_missing_record_is_named(case: Case) -> None:
    job = case.workload.work[0]
    case.control.observed.records[job.id] = None
    assert case.only_fault() == f"states: job {job.id}: no record"


def test_a_record_with_too_many_attempts_is_named(case: Case) -> None:
    job = case.workload.work[0]
    case.record(job.message, State.COMPLETED, attempts=2)
    assert case.only_fault() == f"states: job {job.id}: 2 attempts, it ran 1 times"


def test_a_record_that_ends_before_it_starts_is_named(case: Case) -> None:
    job, records = case.workload.work[0], case.control.observed.records
    record = records[job.id]
    assert record is not None
    records[job.id] = replace(record, finished_at=1_500)
    assert "its times are not in order" in case.only_fault()


# -- a limit


def respaced(case: Case, interval_ms: int) -> None:
    case.evidence.history.notes.clear()
    case._note()
    for number, message in enumerate(case.control.limited):
        del case.evidence.history.notes[message.message_id]
        case.note(message, "started", 10_000 + interval_ms * number)


def test_starts_that_are_too_close_are_named(case: Case) -> None:
    respaced(case, 170)
    assert case.only_fault() == "limit: 6 starts in 900 ms, the limit is 5"


def test_starts_that_take_too_long_are_named(case: Case) -> None:
    respaced(case, 2_000)
    assert case.only_fault() == "limit: 10 starts took 18000 ms, their time was 1818 ms"


def test_the_limit_shows_the_spacing_that_was_measured(case: Case) -> None:
    check = named(case, "limit")
    assert "202 to 202 ms apart (median 202)" in check.line


def test_a_limited_job_that_never_started_is_named(case: Case) -> None:
    id = case.control.limited[0].message_id
    del case.evidence.history.notes[id]
    assert case.only_fault() == f"limit: limited job {id}: started 0 times"


def test_an_attempt_that_parking_used_up_is_named(case: Case) -> None:
    message = case.control.limited[0]
    case.record(message, State.COMPLETED, attempts=2)
    expected = f"limit: limited job {message.message_id}: 2 attempts in its record, expected 1"
    assert case.only_fault() == expected


# -- a cancelled job


def test_a_running_job_that_was_not_interrupted_is_named(case: Case) -> None:
    id = case.control.endless.message_id
    del case.evidence.history.notes[id]
    assert case.only_fault() == f"cancelled: job {id}: nothing was raised in it"


def test_an_interrupt_that_came_late_is_named(case: Case) -> None:
    id = case.control.endless.message_id
    case.evidence.history.notes[id] = []
    case.note(case.control.endless, "cancelled", ASKED_MS + 1_001)
    assert case.only_fault() == f"cancelled: job {id}: interrupted after 1001 ms, not 1000"


def test_a_cancelled_job_that_was_tried_again_is_named(case: Case) -> None:
    events = case.control.observed.events[case.control.endless.message_id]
    events[2:] = ["failed", "retrying"]
    assert case.only_fault().endswith("expected queued started cancelled")


def test_a_line_claims_nothing_that_does_not_hold(case: Case) -> None:
    case.control.observed.cancelled = False
    assert str(named(case, "cancelled")) == "cancelled: does not hold, see below"


def test_a_refused_cancel_is_named(case: Case) -> None:
    case.control.observed.cancelled = False
    assert case.only_fault() == "cancelled: the broker did not take the request"


# -- a repeated send


def test_a_repeated_send_that_made_a_job_is_named(case: Case) -> None:
    second = case.control.pushes[1]
    case.control.observed.sent_ids[1] = second.message_id
    case.record(second, State.COMPLETED)
    assert case.faults() == [
        (
            f"deduplicated: send 2 of the same key: returned {second.message_id}, "
            f"expected the first one's {case.control.pushes[0].message_id}"
        ),
        f"deduplicated: job {second.message_id}: has a record, though it was a repeat",
    ]


# -- a redrive


def test_a_letter_that_never_was_is_named(case: Case) -> None:
    case.control.observed.letter = None
    assert case.only_fault().endswith("no dead letter")


def test_a_letter_with_another_reason_is_named(case: Case) -> None:
    observed = case.control.observed
    assert observed.letter is not None
    observed.letter = replace(observed.letter, reason="rejected")
    assert "'rejected' after 2 attempts" in case.only_fault()


def test_a_redrive_that_moved_nothing_is_named(case: Case) -> None:
    case.control.observed.redriven = 0
    assert case.only_fault() == "redriven: 0 letters were redriven, expected 1"


def test_a_redriven_job_that_did_not_succeed_is_named(case: Case) -> None:
    events = case.control.observed.events[case.control.late.message_id]
    events[-1:] = ["failed", "dead"]
    assert f"expected {COURSE}" in case.only_fault()


def test_a_redriven_job_without_its_image_is_named(case: Case) -> None:
    (case.evidence.storage / case.control.late_case.output).unlink()
    assert case.only_fault().startswith("redriven: image ")


# -- encryption, correlation, logs


@pytest.mark.parametrize("text", checks.IN_CLEAR)
def test_a_payload_in_clear_is_named(case: Case, text: str) -> None:
    case.control.observed.stored += text.encode()
    expected = f"encryption: {text!r} is readable in the server's append-only file"
    assert case.only_fault() == expected


def test_a_search_in_the_wrong_place_is_named(case: Case) -> None:
    case.control.observed.stored = b""
    assert case.only_fault().endswith("nothing was looked at")


def test_a_record_of_another_chain_is_named(case: Case) -> None:
    case.record(case.control.limited[0], State.COMPLETED, chain="other")
    assert "its record has the chain 'other'" in case.only_fault()


def test_a_line_of_another_chain_is_named(case: Case) -> None:
    case.control.observed.log.append(case.line(case.control.late.message_id, "other"))
    assert case.only_fault().endswith("expected the chain 'demo-control'")


def test_a_nested_job_outside_its_chain_is_named(case: Case) -> None:
    case.control.observed.log[-1]["correlationId"] = "other"
    assert case.only_fault().startswith("correlation: 0 jobs that others have sent")


def test_a_job_without_a_line_is_named(case: Case) -> None:
    job = case.workload.work[0]
    case.control.observed.log.remove(case.line(job.id, job.id))
    assert case.only_fault() == f"logs: job {job.id}: done, and not in the log"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda line: line.pop("level"), "without level"),
        (lambda line: line.update(error=f"no {FLAKY_TITLE}"), f"shows {FLAKY_TITLE!r}"),
    ],
)
def test_a_line_that_is_not_as_it_should_be_is_named(
    case: Case, change: Callable[[dict[str, object]], object], named: str
) -> None:
    change(case.control.observed.log[0])
    assert case.only_fault().endswith(named)


def named(case: Case, name: str) -> Check:
    found = check_all(case.workload, case.control, case.evidence)
    return next(check for check in found if check.name == name)
