"""What jobs are about: the structs that producers fill in and workers receive.

Names are snake_case in Python and the spec's camelCase on the wire (``user_id`` is
``userId``). Unknown fields are refused, in the caller and in the worker.
"""

from __future__ import annotations

import re
from email.errors import MessageError
from email.headerregistry import Address
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from middleware.payload import Payload, RuleBroken, read

#: The id of a user, which becomes part of a key.
UserId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
#: Where something lies in the storage, relative to its root.
StoragePath: TypeAlias = Annotated[str, Meta(min_length=1, max_length=1024)]
#: One line of a mail's header.
OneLine: TypeAlias = Annotated[str, Meta(min_length=1, max_length=998)]
Side: TypeAlias = Annotated[int, Meta(ge=1, le=65_500)]
Quality: TypeAlias = Annotated[int, Meta(ge=1, le=95)]
Milliseconds: TypeAlias = Annotated[int, Meta(ge=0)]

_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")


# ---- notification-queue


class Notification(Payload, frozen=True, kw_only=True):
    """Tell a user something by mail, push or in the application; ``payload`` is the content."""

    type: Literal["email", "push", "in-app"]
    user_id: UserId
    payload: dict[str, Any]

    def check(self) -> None:
        """The payload is the content that the type needs."""
        self.content()

    def content(self) -> EmailContent | PushContent | dict[str, Any]:
        """The payload, typed."""
        if self.type == "email":
            return read(EmailContent, self.payload, "$.payload")
        if self.type == "push":
            return read(PushContent, self.payload, "$.payload")
        return self.payload


class EmailContent(Payload, frozen=True, kw_only=True):
    """A mail. Without ``html`` the HTML part is made from the text."""

    to: OneLine
    subject: OneLine
    text: str
    html: str | None = None

    def check(self) -> None:
        """One recipient; nothing that could smuggle in a header."""
        for name, value in (("to", self.to), ("subject", self.subject)):
            if _CONTROL.search(value):
                raise RuleBroken(f"$.{name}", "must not hold line breaks or control characters")
        try:
            Address(addr_spec=self.to)
        except (ValueError, IndexError, MessageError):
            raise RuleBroken("$.to", "must be one mail address, as in user@example.org") from None


class PushContent(Payload, frozen=True, kw_only=True):
    """What the push gateway shows; ``data`` is handed to the application on the device."""

    title: str
    body: str
    data: dict[str, Any] = msgspec.field(default_factory=dict)


# ---- file-processing-queue


class FileJob(Payload, frozen=True, kw_only=True):
    """Make another image of a stored one; ``options`` are the operation's own."""

    file_id: StoragePath
    operation: Literal["resize", "convert", "optimize"]
    options: dict[str, Any]

    def check(self) -> None:
        """The options are the operation's, and both paths stay inside the storage."""
        check_path(self.file_id, "$.fileId")
        self.parsed_options()

    def parsed_options(self) -> FileOptions:
        """The options, typed."""
        options: FileOptions
        if self.operation == "resize":
            options = read(ResizeOptions, self.options, "$.options")
        elif self.operation == "convert":
            options = read(ConvertOptions, self.options, "$.options")
        else:
            options = read(OptimizeOptions, self.options, "$.options")
        if options.output == self.file_id:
            # The source must survive, or a repeat would work on its own result.
            raise RuleBroken("$.options.output", "must not be the source itself")
        return options


class _Options(Payload, frozen=True, kw_only=True):
    #: Where the result goes; None: beside the source, named after the operation.
    output: StoragePath | None = None

    def check(self) -> None:
        """The result stays inside the storage."""
        if self.output is not None:
            check_path(self.output, "$.output")


class ResizeOptions(_Options, frozen=True, kw_only=True):
    """At least one side, in pixels; the other follows from the proportions.

    contain: fits inside both. cover: fills both, the middle is kept. fill: distorts.
    """

    width: Side | None = None
    height: Side | None = None
    fit: Literal["contain", "cover", "fill"] = "contain"
    quality: Quality = 85

    def check(self) -> None:
        """Cover and fill need both sides."""
        super().check()
        if self.width is None and self.height is None:
            raise RuleBroken("$.width", "width or height is required")
        if self.fit != "contain" and (self.width is None or self.height is None):
            raise RuleBroken("$.fit", f"{self.fit!r} needs both width and height")


class ConvertOptions(_Options, frozen=True, kw_only=True):
    """Another format; where it knows no transparency the background shows through."""

    format: Literal["jpeg", "png", "webp", "gif"]
    quality: Quality = 85
    background: Annotated[str, Meta(pattern=r"^#[0-9a-fA-F]{6}$")] = "#ffffff"


class OptimizeOptions(_Options, frozen=True, kw_only=True):
    """The same image in fewer bytes; the source's own where it has none to lose."""

    quality: Quality = 80


FileOptions: TypeAlias = ResizeOptions | ConvertOptions | OptimizeOptions


# ---- maintenance-queue


class MaintenanceJob(Payload, frozen=True, kw_only=True):
    """A housekeeping task; ``parameters`` are the task's own."""

    task_type: str
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)

    def check(self) -> None:
        """The task exists and the parameters are its own."""
        self.task()

    def task(self) -> MaintenanceTask:
        """The parameters, typed, which says the task as well."""
        kind = _TASKS.get(self.task_type)
        if kind is None:
            rule = f"unknown task {self.task_type!r}, must be one of {', '.join(sorted(_TASKS))}"
            raise RuleBroken("$.taskType", rule)
        return read(kind, self.parameters, "$.parameters")


class PurgeDeadLetters(Payload, frozen=True, kw_only=True):
    """Drop dead letters that died longer ago than ``older_than_ms``; all queues without a queue."""

    queue: str | None = None
    older_than_ms: Milliseconds = 604_800_000


class TrimEvents(Payload, frozen=True, kw_only=True):
    """Shorten the event streams to about ``max_length``; all queues without a queue."""

    queue: str | None = None
    max_length: Annotated[int, Meta(ge=0)] = 10_000


class RemoveTemporaryFiles(Payload, frozen=True, kw_only=True):
    """Remove what killed file jobs left behind, if older than ``older_than_ms``.

    Below the time limit of a job (ten minutes) it could take away the file of a running one.
    """

    older_than_ms: Annotated[int, Meta(ge=600_000)] = 86_400_000


class QueueReport(Payload, frozen=True, kw_only=True):
    """Write the state of every queue as JSON into the storage."""

    output: StoragePath = "reports/queues.json"

    def check(self) -> None:
        """The report stays inside the storage."""
        check_path(self.output, "$.output")


MaintenanceTask: TypeAlias = PurgeDeadLetters | TrimEvents | RemoveTemporaryFiles | QueueReport

_TASKS: dict[str, type[MaintenanceTask]] = {
    "purge_dead_letters": PurgeDeadLetters,
    "trim_events": TrimEvents,
    "remove_temporary_files": RemoveTemporaryFiles,
    "queue_report": QueueReport,
}


# ---- paths


def check_path(path: str, at: str) -> None:
    """A storage path is relative, has no way up and no tricks of URLs or other systems.

    Raises:
      RuleBroken: it is not.
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise RuleBroken(at, "must be a relative path without empty, '.' or '..' parts")
    if _CONTROL.search(path) or any(mark in path for mark in ("\\", ":", "*", "?", "[")):
        raise RuleBroken(at, r"must not hold control characters or any of \ : * ? [")
