"""The demo's verifier is itself verified: each thing that can be missing is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from actors.images import transform
from actors.payloads import FileJob
from bench.demo.evidence import Death, Entry, Evidence, Leftover
from bench.demo.journal import Event, History
from bench.demo.pictures import ImageCase, check_image, image_cases
from bench.demo.sinks import Mail, Push
from bench.demo.verify import Verdict, inverted_share, verify
from bench.demo.workload import REPORT, Workload, build

WORKER, KILLED_WORKER = 1, 2


@pytest.fixture
def workload() -> Workload:
    return build(0.01)


@pytest.fixture
def evidence(workload: Workload, tmp_path: Path) -> Evidence:
    """Everything as it should be."""
    found = Evidence(tmp_path)
    for mail in workload.expected.mails:
        html = f"<p>{mail.text}</p>" if mail.html is None else mail.html
        if mail.html is None:
            html = html.replace("&", "&amp;").replace("<say>", "&lt;say&gt;")
        found.mails.append(Mail((mail.to,), mail.subject, f"<{mail.id}@x>", mail.text, html))
    for push in workload.expected.pushes:
        found.pushes += [Push("/push", push.id, push.body, 503)] * push.refusals
        found.pushes.append(Push("/push", push.id, push.body, 201))
    for entry in workload.expected.entries:
        found.entries.append(Entry(entry.user_id, entry.id, dict(entry.content)))
    for image in workload.expected.images:
        process(image.case, tmp_path)
    for death in workload.expected.deaths:
        found.deaths.append(Death(death.queue, death.id, death.reason, f"it said {death.error}", 1))
    for path in workload.expected.files:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("{}")
    found.leftovers["notification-queue"] = Leftover(0, 0, 0)
    found.history, found.due_ms = history(workload)
    return found


def process(case: ImageCase, folder: Path) -> None:
    """What the job does, without a queue."""
    file = FileJob(file_id=case.file_id, operation=case.operation, options=dict(case.options))  # type: ignore[arg-type]
    result = transform(case.source, file.parsed_options(), max_pixels=1_000_000)
    target = folder / case.output
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(result.data)


def history(workload: Workload) -> tuple[History, dict[str, int]]:
    """Every job started once, a second after it was due, the urgent ones first."""
    made, due_ms = History(), {}
    for job in workload.jobs:
        due_ms[job.id] = 1_000
        if job.id in workload.expected.killers:
            killed = Event(kind="start", at_ms=9_000, pid=KILLED_WORKER, message_id=job.id)
            made.add([killed])
            continue
        priority = int(job.message.options.get("broker_priority", 0))
        event = Event(kind="start", at_ms=2_000 - priority, pid=WORKER, message_id=job.id)
        made.add([event, Event(kind="done", at_ms=2_000, pid=WORKER, message_id=job.id)])
    return made, due_ms


def only_fault(verdict: Verdict) -> str:
    assert len(verdict.faults) == 1, verdict.faults
    return verdict.faults[0]


def test_nothing_is_wrong_when_everything_is_there(workload: Workload, evidence: Evidence) -> None:
    verdict = verify(workload, evidence)
    assert verdict.faults == []
    assert verdict.duplicates == 0
    assert verdict.effects > 40


def test_a_missing_mail_is_named(workload: Workload, evidence: Evidence) -> None:
    lost = evidence.mails.pop(0)
    assert only_fault(verify(workload, evidence)) == f"mail to {lost.recipients[0]}: missing"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda mail: replace(mail, text="Hi"), "text"),
        (lambda mail: replace(mail, html=""), "HTML"),
        (lambda mail: replace(mail, subject="Hi"), "subject"),
        (lambda mail: replace(mail, message_id="<other@x>"), "Message-ID"),
    ],
)
def test_a_wrong_mail_is_named(
    workload: Workload, evidence: Evidence, change: Callable[[Mail], Mail], named: str
) -> None:
    evidence.mails[0] = change(evidence.mails[0])
    fault = only_fault(verify(workload, evidence))
    assert fault.startswith(f"mail to {evidence.mails[0].recipients[0]}: {named}")


def test_a_mail_that_nobody_sent_is_named(workload: Workload, evidence: Evidence) -> None:
    evidence.mails.append(replace(evidence.mails[0], recipients=("stranger@example.org",)))
    assert only_fault(verify(workload, evidence)) == "mail to stranger@example.org: nobody sent it"


def test_a_second_mail_is_a_fault_unless_its_worker_was_killed(
    workload: Workload, evidence: Evidence
) -> None:
    evidence.mails.append(evidence.mails[0])
    assert "2 times, though its worker was not killed" in only_fault(verify(workload, evidence))

    at_it = Event(
        kind="start", at_ms=8_000, pid=KILLED_WORKER, message_id=workload.expected.mails[0].id
    )
    evidence.history.add([at_it])
    verdict = verify(workload, evidence)
    assert verdict.faults == []
    assert verdict.duplicates == 1


def test_a_job_that_ended_long_before_the_kill_may_not_be_repeated() -> None:
    made = History()
    made.add(
        [
            Event(kind="start", at_ms=1_000, pid=KILLED_WORKER, message_id="old"),
            Event(kind="done", at_ms=1_001, pid=KILLED_WORKER, message_id="old"),
            Event(kind="start", at_ms=8_900, pid=KILLED_WORKER, message_id="fresh"),
            Event(kind="done", at_ms=8_901, pid=KILLED_WORKER, message_id="fresh"),
            Event(kind="start", at_ms=8_950, pid=WORKER, message_id="elsewhere"),
            Event(kind="start", at_ms=9_000, pid=KILLED_WORKER, message_id="killer"),
        ]
    )
    assert made.in_flight_at(made.kills(["killer"])) == {"fresh", "killer"}


def test_a_missing_push_is_named_with_its_key(workload: Workload, evidence: Evidence) -> None:
    lost = workload.expected.pushes[0]
    evidence.pushes = [push for push in evidence.pushes if push.key != lost.id]
    fault = only_fault(verify(workload, evidence))
    assert lost.id in fault
    assert fault.endswith("missing")


def test_a_wrong_push_body_is_named(workload: Workload, evidence: Evidence) -> None:
    evidence.pushes[0] = replace(evidence.pushes[0], body={"title": "other"})
    assert "body {'title': 'other'}" in only_fault(verify(workload, evidence))


def test_a_push_that_was_refused_less_often_than_planned_is_named(
    workload: Workload, evidence: Evidence
) -> None:
    refused = next(push for push in evidence.pushes if push.status == 503)
    evidence.pushes.remove(refused)
    assert "refused 1 times, expected 2" in only_fault(verify(workload, evidence))


def test_a_missing_inbox_entry_is_named(workload: Workload, evidence: Evidence) -> None:
    lost = evidence.entries.pop(0)
    fault = only_fault(verify(workload, evidence))
    assert fault.startswith(f"inbox of {lost.user_id}")
    assert fault.endswith("missing")


def test_a_wrong_pixel_is_named(workload: Workload, evidence: Evidence) -> None:
    case = workload.expected.images[1].case
    path = evidence.storage / case.output
    with Image.open(path) as image:
        image.putpixel((int(0.3 * image.width), int(0.5 * image.height)), (1, 2, 3))
        image.save(path)
    fault = only_fault(verify(workload, evidence))
    assert fault.startswith(f"image {case.output}: pixel 28,48 is (1, 2, 3, 255)")


def test_a_missing_image_is_named(workload: Workload, evidence: Evidence) -> None:
    case = workload.expected.images[0].case
    (evidence.storage / case.output).unlink()
    assert only_fault(verify(workload, evidence)).startswith(f"image {case.output}: missing")


def test_an_image_of_another_size_or_format_is_named(tmp_path: Path) -> None:
    case = image_cases(0)[0]
    process(case, tmp_path)
    assert check_image(case, tmp_path) == []
    other = replace(case, format="PNG", size=(1, 1))
    assert check_image(other, tmp_path) == [
        f"image {case.output}: format JPEG, expected PNG",
        f"image {case.output}: size 160x120, expected 1x1",
    ]


def test_an_image_that_is_half_written_is_named(tmp_path: Path) -> None:
    case = image_cases(0)[0]
    process(case, tmp_path)
    path = tmp_path / case.output
    path.write_bytes(path.read_bytes()[:500])
    assert f"image {case.output}: can't be read" in check_image(case, tmp_path)[0]


def test_a_lossless_result_is_compared_in_every_pixel(tmp_path: Path) -> None:
    case = next(case for case in image_cases(0) if case.picture is None)
    process(case, tmp_path)
    with Image.open(tmp_path / case.output) as image:
        image.putpixel((3, 3), (9, 9, 9))
        image.save(tmp_path / case.output)
    assert "pixels differ" in " ".join(check_image(case, tmp_path))


@pytest.mark.parametrize("index", range(4))
def test_a_missing_dead_letter_is_named(workload: Workload, evidence: Evidence, index: int) -> None:
    lost = evidence.deaths.pop(index)
    fault = only_fault(verify(workload, evidence))
    assert fault.startswith(f"dead letter of {lost.queue}")
    assert workload.expected.deaths[index].what in fault
    assert fault.endswith("missing")


def test_a_dead_letter_with_the_wrong_reason_is_named(
    workload: Workload, evidence: Evidence
) -> None:
    evidence.deaths[-1] = replace(evidence.deaths[-1], reason="rejected")
    assert "reason 'rejected', expected 'max_deliveries'" in only_fault(verify(workload, evidence))


def test_a_job_that_should_have_lived_is_named(workload: Workload, evidence: Evidence) -> None:
    evidence.deaths.append(Death("notification-queue", "m1", "rejected", "boom", 1))
    assert "m1 should live" in only_fault(verify(workload, evidence))


def test_what_is_left_in_a_queue_is_named(workload: Workload, evidence: Evidence) -> None:
    evidence.leftovers["notification-queue"] = Leftover(ready=1, scheduled=2, in_flight=3)
    expected = "queue notification-queue: left over 1 ready, 2 scheduled, 3 in flight"
    assert only_fault(verify(workload, evidence)) == expected


def test_a_delayed_job_that_started_early_is_named(workload: Workload, evidence: Evidence) -> None:
    delayed = next(job for job in workload.work if job.delay_ms is not None)
    evidence.due_ms[delayed.id] = 2_001
    expected = f"delayed job {delayed.id}: started 1 ms before its time"
    assert only_fault(verify(workload, evidence)) == expected


def test_a_job_that_never_started_is_named(workload: Workload, evidence: Evidence) -> None:
    job = workload.work[0]
    del evidence.history.starts[job.id]
    assert only_fault(verify(workload, evidence)).endswith(f"{job.id}: never started")


def test_jobs_in_the_wrong_order_are_named(workload: Workload, evidence: Evidence) -> None:
    for job in workload.prioritised:
        priority = int(job.message.options["broker_priority"])
        start = Event(kind="start", at_ms=2_000 + priority, pid=WORKER, message_id=job.id)
        evidence.history.starts[job.id] = [start]
    verdict = verify(workload, evidence)
    assert verdict.inverted == 1.0
    assert any("100% of the pairs" in fault for fault in verdict.faults)


def test_jobs_that_start_at_once_are_in_no_wrong_order(
    workload: Workload, evidence: Evidence
) -> None:
    for job in workload.prioritised:
        start = Event(kind="start", at_ms=2_000, pid=WORKER, message_id=job.id)
        evidence.history.starts[job.id] = [start]
    assert inverted_share(workload.prioritised, evidence) == 0.0


def test_a_missing_report_file_is_named(workload: Workload, evidence: Evidence) -> None:
    (evidence.storage / REPORT).unlink()
    assert only_fault(verify(workload, evidence)) == f"file {REPORT}: missing"
