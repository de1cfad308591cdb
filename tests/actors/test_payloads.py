from __future__ import annotations

from typing import Any

import msgspec
import pytest

from actors.payloads import (
    EmailContent,
    FileJob,
    MaintenanceJob,
    Notification,
    PurgeDeadLetters,
    PushContent,
    ResizeOptions,
)
from middleware.payload import RuleBroken, read

EMAIL = {"to": "ada@example.org", "subject": "s", "text": "t"}


def notification(kind: Any, **payload: Any) -> Notification:
    return Notification(type=kind, user_id="u1", payload=payload)


def file_job(operation: Any, *, file_id: str = "a/photo.png", **options: Any) -> FileJob:
    return FileJob(file_id=file_id, operation=operation, options=options)


def task(name: str, **parameters: Any) -> MaintenanceJob:
    return MaintenanceJob(task_type=name, parameters=parameters)


def test_the_wire_names_are_the_specs() -> None:
    wire = [
        msgspec.to_builtins(payload)
        for payload in (
            notification("push", title="t", body="b"),
            file_job("optimize"),
            task("queue_report"),
        )
    ]
    assert [set(fields) for fields in wire] == [
        {"type", "userId", "payload"},
        {"fileId", "operation", "options"},
        {"taskType", "parameters"},
    ]


def test_the_content_is_typed_by_its_kind() -> None:
    assert notification("email", **EMAIL).content() == EmailContent(**EMAIL)
    assert notification("push", title="t", body="b").content() == PushContent(title="t", body="b")
    assert notification("in-app", anything=1).content() == {"anything": 1}
    assert file_job("resize", width=3).parsed_options() == ResizeOptions(width=3)
    assert task("purge_dead_letters", olderThanMs=5).task() == PurgeDeadLetters(older_than_ms=5)


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        (notification("fax"), "$.type"),
        (Notification(type="in-app", user_id="", payload={}), "$.userId"),
        (notification("email", **{**EMAIL, "to": "no address"}), "$.payload.to"),
        (notification("email", **{**EMAIL, "to": "a@b.c, d@e.f"}), "$.payload.to"),
        (notification("email", **{**EMAIL, "to": "a@b.c\r\nBcc: d@e.f"}), "$.payload.to"),
        (notification("email", **{**EMAIL, "subject": "s\nBcc: d@e.f"}), "$.payload.subject"),
        (notification("email", **{**EMAIL, "cc": "x@y.z"}), "$.payload"),
        (notification("email", to="a@b.c", subject="s"), "$.payload"),
        (notification("push", title="t"), "$.payload"),
        (notification("push", title="t", body=1), "$.payload.body"),
        (file_job("rotate"), "$.operation"),
        (file_job("optimize", file_id="../x"), "$.fileId"),
        (file_job("optimize", file_id="/etc/passwd"), "$.fileId"),
        (file_job("optimize", output="../x"), "$.options.output"),
        (file_job("optimize", output="a/photo.png"), "$.options.output"),
        (file_job("optimize", quality=101), "$.options.quality"),
        (file_job("optimize", width=5), "$.options"),
        (file_job("resize"), "$.options.width"),
        (file_job("resize", width=0), "$.options.width"),
        (file_job("resize", width="5"), "$.options.width"),
        (file_job("resize", width=5, fit="cover"), "$.options.fit"),
        (file_job("convert"), "$.options"),
        (file_job("convert", format="exe"), "$.options.format"),
        (file_job("convert", format="jpeg", background="red"), "$.options.background"),
        (task("format_disk"), "$.taskType"),
        (task("purge_dead_letters", olderThanDays=1), "$.parameters"),
        (task("purge_dead_letters", olderThanMs=-1), "$.parameters.olderThanMs"),
        (task("remove_temporary_files", olderThanMs=1), "$.parameters.olderThanMs"),
        (task("queue_report", output="/tmp/x"), "$.parameters.output"),  # noqa: S108
    ],
)
def test_a_bad_payload_says_where(payload: Any, path: str) -> None:
    with pytest.raises(RuleBroken) as caught:
        read(type(payload), msgspec.to_builtins(payload))
    assert caught.value.path == path


def test_an_unknown_task_or_parameter_is_named() -> None:
    with pytest.raises(RuleBroken, match="format_disk.*purge_dead_letters"):
        task("format_disk").check()
    with pytest.raises(RuleBroken, match="olderThanDays"):
        task("purge_dead_letters", olderThanDays=1).check()


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(RuleBroken, match="user_id"):
        read(Notification, {"type": "push", "userId": "u", "user_id": "u", "payload": {}})
