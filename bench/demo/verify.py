"""Compare what was expected with what is there; every difference is one line that names it.

A repeat (at least once) is a fault too, unless the job was in flight in a killed worker.
"""

from __future__ import annotations

import html
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from bench.demo.evidence import Evidence
from bench.demo.pictures import check_image
from bench.demo.sinks import Mail
from bench.demo.workload import Expected, ExpectedMail, ExpectedPush, Job, Workload

MOST_INVERTED = 0.35
"""The share of pairs that may start in the wrong order: several processes fetch side by
side, and one fetch in ten is served from the lowest level. Without priorities it is a half."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong, and how many effects came twice with good reason."""

    faults: list[str]
    effects: int
    duplicates: int
    inverted: float
    """The share of prioritised pairs that started in the wrong order."""


class Repeats:
    """Which messages may take effect more than once, and how many did."""

    def __init__(self, allowed: set[str]) -> None:
        self._allowed = allowed
        self.count = 0

    def faults(self, what: str, message_id: str, times: int) -> Iterator[str]:
        """None for one effect; a line for a missing one or a repeat without reason."""
        if times == 0:
            yield f"{what}: missing"
        elif times > 1 and message_id in self._allowed:
            self.count += times - 1
        elif times > 1:
            yield f"{what}: {times} times, though its worker was not killed"


def verify(workload: Workload, evidence: Evidence) -> Verdict:
    """Look at every single effect."""
    expected, history = workload.expected, evidence.history
    repeats = Repeats(history.in_flight_at(history.kills(expected.killers)))
    inverted = inverted_share(workload.prioritised, evidence)
    faults = [
        *check_mails(expected, evidence, repeats),
        *check_pushes(expected, evidence, repeats),
        *check_entries(expected, evidence, repeats),
        *(fault for each in expected.images for fault in check_image(each.case, evidence.storage)),
        *check_files(expected, evidence),
        *check_deaths(expected, evidence),
        *check_leftovers(evidence),
        *check_times(workload, evidence),
        *check_order(workload.prioritised, evidence, inverted),
    ]
    return Verdict(faults, count_effects(workload), repeats.count, inverted)


def count_effects(workload: Workload) -> int:
    """How many single effects are verified."""
    expected = workload.expected
    parts = (
        expected.mails,
        expected.pushes,
        expected.entries,
        expected.images,
        expected.files,
        expected.deaths,
    )
    return sum(len(part) for part in parts)


# ---- notifications


def check_mails(expected: Expected, evidence: Evidence, repeats: Repeats) -> Iterator[str]:
    """Each recipient has exactly one mail, with the right text and HTML, and nobody else has."""
    arrived: dict[str, list[Mail]] = defaultdict(list)
    for mail in evidence.mails:
        for recipient in mail.recipients:
            arrived[recipient].append(mail)
    for wanted in expected.mails:
        mails = arrived.pop(wanted.to, [])
        yield from repeats.faults(f"mail to {wanted.to}", wanted.id, len(mails))
        for mail in mails:
            yield from _mail_faults(wanted, mail)
    for recipient in arrived:
        yield f"mail to {recipient}: nobody sent it"


def _mail_faults(wanted: ExpectedMail, mail: Mail) -> Iterator[str]:
    what = f"mail to {wanted.to}"
    if mail.subject != wanted.subject:
        yield f"{what}: subject {mail.subject!r}, expected {wanted.subject!r}"
    if wanted.id not in mail.message_id:
        yield f"{what}: Message-ID {mail.message_id}, expected one with {wanted.id}"
    if _lines(mail.text) != _lines(wanted.text):
        yield f"{what}: text {mail.text!r}, expected {wanted.text!r}"
    if not _html_matches(wanted, mail.html):
        yield f"{what}: HTML {mail.html!r}, expected {wanted.html or wanted.text!r}"


def _html_matches(wanted: ExpectedMail, found: str) -> bool:
    if wanted.html is not None:
        return _lines(found) == _lines(wanted.html)
    return all(html.escape(line) in found for line in _lines(wanted.text)) and "<" in found


def _lines(text: str) -> list[str]:
    return text.strip().splitlines()


def check_pushes(expected: Expected, evidence: Evidence, repeats: Repeats) -> Iterator[str]:
    """Each key was accepted once, with the right body, after the refusals it had coming."""
    accepted: dict[str, list[object]] = defaultdict(list)
    refused: Counter[str] = Counter()
    for push in evidence.pushes:
        if push.status == 201:
            accepted[push.key].append(push.body)
        else:
            refused[push.key] += 1
    for wanted in expected.pushes:
        bodies = accepted.pop(wanted.id, [])
        what = _push_name(wanted)
        yield from repeats.faults(what, wanted.id, len(bodies))
        for body in bodies:
            if body != wanted.body:
                yield f"{what}: body {body!r}, expected {wanted.body!r}"
        if refused[wanted.id] != wanted.refusals:
            yield f"{what}: refused {refused[wanted.id]} times, expected {wanted.refusals}"
    for key in accepted:
        yield f"push with key {key}: nobody sent it"


def _push_name(wanted: ExpectedPush) -> str:
    return f"push {wanted.body['title']!r} to {wanted.body['userId']} (key {wanted.id})"


def check_entries(expected: Expected, evidence: Evidence, repeats: Repeats) -> Iterator[str]:
    """Each notification is once in its user's inbox, and nothing else is."""
    found: dict[tuple[str, str], list[object]] = defaultdict(list)
    for entry in evidence.entries:
        found[entry.user_id, entry.message_id].append(entry.content)
    for wanted in expected.entries:
        contents = found.pop((wanted.user_id, wanted.id), [])
        what = f"inbox of {wanted.user_id}, {wanted.content['text']!r} ({wanted.id})"
        yield from repeats.faults(what, wanted.id, len(contents))
        for content in contents:
            if content != wanted.content:
                yield f"{what}: content {content!r}, expected {wanted.content!r}"
    for user_id, message_id in found:
        yield f"inbox of {user_id}: entry {message_id}, which nobody sent"


# ---- files, dead letters, queues


def check_files(expected: Expected, evidence: Evidence) -> Iterator[str]:
    """The files that maintenance writes are there; no job left a half file."""
    for path in expected.files:
        if not (evidence.storage / path).is_file():
            yield f"file {path}: missing"


def check_deaths(expected: Expected, evidence: Evidence) -> Iterator[str]:
    """Exactly the jobs that had to die are dead letters, each with its reason."""
    dead = {death.message_id: death for death in evidence.deaths}
    for wanted in expected.deaths:
        what = f"dead letter of {wanted.queue} for the {wanted.what} ({wanted.id})"
        death = dead.pop(wanted.id, None)
        if death is None or death.queue != wanted.queue:
            yield f"{what}: missing"
            continue
        if death.reason != wanted.reason:
            yield f"{what}: reason {death.reason!r}, expected {wanted.reason!r}"
        if wanted.error not in death.error:
            yield f"{what}: error {death.error!r}, expected one with {wanted.error!r}"
    for death in dead.values():
        yield (
            f"dead letter of {death.queue}: {death.message_id} should live, "
            f"but is dead of {death.reason!r}: {death.error}"
        )


def check_leftovers(evidence: Evidence) -> Iterator[str]:
    """No queue holds anything but dead letters."""
    for queue, left in evidence.leftovers.items():
        if left.ready or left.scheduled or left.in_flight:
            yield (
                f"queue {queue}: left over {left.ready} ready, "
                f"{left.scheduled} scheduled, {left.in_flight} in flight"
            )


# ---- time and order


def check_times(workload: Workload, evidence: Evidence) -> Iterator[str]:
    """Every job was started, and none before its time; an invalid one never is."""
    invalid = {death.id for death in workload.expected.deaths if death.reason == "invalid"}
    for job in workload.jobs:
        started_ms = evidence.history.first_start_ms(job.id)
        due_ms = evidence.due_ms.get(job.id)
        if started_ms is None:
            if job.id not in invalid:
                yield f"job {job.message.actor_name} {job.id}: never started"
        elif due_ms is None:
            yield f"job {job.message.actor_name} {job.id}: never enqueued"
        elif started_ms < due_ms:
            yield f"delayed job {job.id}: started {due_ms - started_ms} ms before its time"


def check_order(jobs: list[Job], evidence: Evidence, inverted: float) -> Iterator[str]:
    """The higher the priority, the earlier the start: level by level, and in most pairs."""
    ranks: dict[int, list[int]] = defaultdict(list)
    for rank, (_, priority) in enumerate(_started(jobs, evidence)):
        ranks[priority].append(rank)
    levels = sorted(ranks)
    for lower, higher in pairwise(levels):
        if median(ranks[higher]) >= median(ranks[lower]):
            yield f"priority {higher}: started no earlier than priority {lower}"
    if inverted > MOST_INVERTED:
        yield f"priorities: {inverted:.0%} of the pairs started in the wrong order"


def inverted_share(jobs: list[Job], evidence: Evidence) -> float:
    """Of all pairs with different priorities, the share in which the lower started first."""
    order = _started(jobs, evidence)
    pairs = inverted = 0
    for position, (first_ms, first) in enumerate(order):
        for later_ms, later in order[position + 1 :]:
            pairs += first != later
            inverted += first < later and first_ms < later_ms
    return inverted / pairs if pairs else 0.0


def _started(jobs: list[Job], evidence: Evidence) -> list[tuple[int, int]]:
    """Start and priority of each job, in the order of starts."""
    found = []
    for job in jobs:
        started_ms = evidence.history.first_start_ms(job.id)
        if started_ms is not None:
            found.append((started_ms, int(job.message.options.get("broker_priority", 0))))
    return sorted(found, key=lambda each: each[0])
