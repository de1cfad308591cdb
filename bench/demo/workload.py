"""The demo's jobs, and with each of them what it has to bring about.

Everything follows from the scale: the same scale makes the same jobs, save for their ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dramatiq import Message

from actors.files import process_file
from actors.maintenance import run_maintenance
from actors.notifications import send_notification
from actors.payloads import FileJob, MaintenanceJob, Notification
from bench.demo.jobs import kill_worker
from bench.demo.pictures import ImageCase, broken_photo, image_cases

PRIORITIES = (0, 5, 9)
FLAKY_REFUSALS = 2
"""How often the push gateway refuses the flaky notification before it takes it."""
FLAKY_TITLE = "Third time lucky"
UNKNOWN_ADDRESS = "nobody@users.example.org"
BROKEN_PHOTO = "photos/broken.jpg"
REPORT = "reports/queues.json"


@dataclass(frozen=True, slots=True)
class Job:
    """A message to enqueue."""

    message: Message[Any]
    delay_ms: int | None = None

    @property
    def id(self) -> str:
        """The message's id."""
        return self.message.message_id


@dataclass(frozen=True, slots=True)
class ExpectedMail:
    """Exactly one mail to `to`."""

    id: str
    to: str
    subject: str
    text: str
    html: str | None
    """None: any HTML that shows the text."""


@dataclass(frozen=True, slots=True)
class ExpectedPush:
    """Exactly one accepted request, after `refusals` refused ones, all with the same key."""

    id: str
    body: dict[str, Any]
    refusals: int = 0


@dataclass(frozen=True, slots=True)
class ExpectedEntry:
    """Exactly one entry in the user's inbox."""

    id: str
    user_id: str
    content: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ExpectedImage:
    """The case's result in the storage."""

    id: str
    case: ImageCase


@dataclass(frozen=True, slots=True)
class ExpectedDeath:
    """A dead letter with that reason, whose error holds `error`."""

    id: str
    queue: str
    reason: str
    error: str
    what: str


@dataclass
class Expected:
    """All effects of the jobs; what a message leaves behind is looked up by its id."""

    mails: list[ExpectedMail] = field(default_factory=list)
    pushes: list[ExpectedPush] = field(default_factory=list)
    entries: list[ExpectedEntry] = field(default_factory=list)
    images: list[ExpectedImage] = field(default_factory=list)
    deaths: list[ExpectedDeath] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    killers: list[str] = field(default_factory=list)


@dataclass
class Workload:
    """Jobs in the waves in which they are enqueued, and what they bring about."""

    work: list[Job] = field(default_factory=list)
    prioritised: list[Job] = field(default_factory=list)
    neighbours: list[Job] = field(default_factory=list)
    killers: list[Job] = field(default_factory=list)
    expected: Expected = field(default_factory=Expected)

    @property
    def jobs(self) -> Iterator[Job]:
        """Every job of every wave."""
        yield from self.work
        yield from self.prioritised
        yield from self.killers
        yield from self.neighbours

    @property
    def deaths(self) -> set[str]:
        """The ids of the jobs that have to die."""
        return {death.id for death in self.expected.deaths}

    @property
    def sources(self) -> dict[str, bytes]:
        """The files that have to be in the storage beforehand, by path."""
        files = {image.case.file_id: image.case.source for image in self.expected.images}
        return {**files, BROKEN_PHOTO: broken_photo()}


def build(scale: float = 1.0) -> Workload:
    """The demo's jobs; at scale 1 a few hundred, never fewer than one of each."""
    made = Workload()
    for number in range(_scaled(120, scale)):
        for notification in (_mail(made, number), _push(made, number), _entry(made, number)):
            made.work.append(notification)
    for variant in range(_scaled(5, scale)):
        made.work += [_image(made, case) for case in image_cases(variant)]
    for number in range(_scaled(12, scale)):
        made.work.append(_entry(made, 1_000 + number, delay_ms=1_000 + 250 * number))
    made.work += [_flaky(made), _refused_mail(made), _broken_photo(made), _unknown_task(made)]
    made.work.append(_queue_report(made))
    # Always as many: of a handful, several workers may start any first.
    for number in range(60):
        priority = PRIORITIES[number % len(PRIORITIES)]
        made.prioritised.append(_entry(made, 2_000 + number, broker_priority=priority))
    made.killers.append(_killer(made))
    for number in range(_scaled(30, scale, least=6)):
        made.neighbours += [_mail(made, 3_000 + number), _entry(made, 3_000 + number)]
    made.neighbours += [_image(made, case) for case in image_cases(90)]
    return made


def _scaled(count: int, scale: float, *, least: int = 1) -> int:
    return max(least, round(count * scale))


def _notification(kind: Any, user_id: str, payload: dict[str, Any], **options: Any) -> Message[Any]:
    notification = Notification(type=kind, user_id=user_id, payload=payload)
    return send_notification.message_with_options(args=(notification,), **options)


def _mail(made: Workload, number: int) -> Job:
    to = f"user-{number}@users.example.org"
    subject = f"Welcome, user {number}: grüß dich"
    text = f"Hello {number},\n\nyour account is ready. Müller & 山田 <say> hello.\n"
    html = f"<p>Hello <b>{number}</b>, your account is ready. 🎉</p>\n" if number % 2 else None
    payload: dict[str, Any] = {"to": to, "subject": subject, "text": text}
    if html is not None:
        payload["html"] = html
    message = _notification("email", f"user-{number}", payload)
    made.expected.mails.append(ExpectedMail(message.message_id, to, subject, text, html))
    return Job(message)


def _push(made: Workload, number: int) -> Job:
    return _pushed(made, f"user-{number}", f"Message {number}", refusals=0)


def _flaky(made: Workload) -> Job:
    return _pushed(made, "user-flaky", FLAKY_TITLE, refusals=FLAKY_REFUSALS)


def _pushed(made: Workload, user_id: str, title: str, *, refusals: int) -> Job:
    content = {"title": title, "body": f"Für {user_id} 🔔", "data": {"exact": 2**53 - 1}}
    message = _notification("push", user_id, content)
    body = {"userId": user_id, **content}
    made.expected.pushes.append(ExpectedPush(message.message_id, body, refusals))
    return Job(message)


def _entry(made: Workload, number: int, *, delay_ms: int | None = None, **options: Any) -> Job:
    # Users share inboxes, as they do: several notifications for each.
    user_id = f"user-{number % 40}"
    content = {"text": f"Notice {number}", "number": number, "tags": ["demo", "ünï"], "empty": []}
    message = _notification("in-app", user_id, content, **options)
    made.expected.entries.append(ExpectedEntry(message.message_id, user_id, content))
    return Job(message, delay_ms)


def _image(made: Workload, case: ImageCase) -> Job:
    message = _file_message(case.file_id, case.operation, dict(case.options))
    made.expected.images.append(ExpectedImage(message.message_id, case))
    return Job(message)


def _file_message(file_id: str, operation: Any, options: dict[str, Any]) -> Message[Any]:
    return process_file.message(FileJob(file_id=file_id, operation=operation, options=options))


def _refused_mail(made: Workload) -> Job:
    payload = {"to": UNKNOWN_ADDRESS, "subject": "Anybody there?", "text": "Hello?"}
    message = _notification("email", "user-nobody", payload)
    return _dies(made, message, "550", "mail to an unknown address")


def _broken_photo(made: Workload) -> Job:
    message = _file_message(BROKEN_PHOTO, "resize", {"width": 100})
    return _dies(made, message, "damaged", "damaged image")


def _unknown_task(made: Workload) -> Job:
    # As a producer in another language could send it: ours would refuse it in the caller.
    known = run_maintenance.message(MaintenanceJob(task_type="queue_report"))
    message = known.copy(args=({"taskType": "make_coffee", "parameters": {}},))
    return _dies(made, message, "make_coffee", "unknown maintenance task", reason="invalid")


def _dies(
    made: Workload, message: Message[Any], error: str, what: str, *, reason: str = "rejected"
) -> Job:
    death = ExpectedDeath(message.message_id, message.queue_name, reason, error, what)
    made.expected.deaths.append(death)
    return Job(message)


def _queue_report(made: Workload) -> Job:
    made.expected.files.append(REPORT)
    task = MaintenanceJob(task_type="queue_report", parameters={"output": REPORT})
    return Job(run_maintenance.message(task))


def _killer(made: Workload) -> Job:
    message = kill_worker.message()
    death = ExpectedDeath(
        message.message_id, message.queue_name, "max_deliveries", "", "job that kills its worker"
    )
    made.expected.deaths.append(death)
    made.expected.killers.append(message.message_id)
    return Job(message)
