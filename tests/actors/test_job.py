"""`job` without a server: what is validated where, and what a failure becomes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

import dramatiq
import pytest
from dramatiq.errors import RateLimitExceeded, Retry
from dramatiq.middleware import Interrupt, Shutdown, SkipMessage, TimeLimitExceeded

import actors
from actors.app import build_broker, settings
from actors.errors import PermanentJobError, QueueProcessingError
from actors.job import JobActor, job
from actors.notifications import send_notification
from actors.payloads import Notification
from broker import StreamsBroker
from middleware.payload import InvalidPayload, Payload


class Report(Payload, frozen=True, kw_only=True):
    day: date
    page_count: int = 1


@pytest.fixture(autouse=True)
def unconnected() -> Iterator[StreamsBroker]:
    """A broker that nobody connects: a send that reaches it would fail with another error."""
    broker = build_broker(settings)
    dramatiq.set_broker(broker)
    yield broker
    dramatiq.set_broker(actors.broker)


def failing(error: BaseException, **options: Any) -> JobActor[[], None]:
    @job(queue_name="reports", **options)
    def fail() -> None:
        raise error

    return fail


def test_a_job_gets_its_payload_typed() -> None:
    got: list[Report] = []

    @job(queue_name="reports")
    def make_report(report: Report) -> None:
        got.append(report)

    report = Report(day=date(2026, 5, 1), page_count=3)
    message = make_report.message(report)
    assert message.args == ({"day": "2026-05-01", "pageCount": 3},)
    make_report(*message.args)  # type: ignore[arg-type]
    make_report(report)
    assert got == [report, report]
    assert make_report.payload_type is Report


def test_a_coroutine_function_is_a_job_too(unconnected: StreamsBroker) -> None:
    @job(queue_name="reports")
    async def make_report(report: Report) -> None:
        raise LookupError("no data")

    unconnected.emit_before("worker_boot", None)
    try:
        with pytest.raises(QueueProcessingError, match="no data"):
            make_report(Report(day=date(2026, 5, 1)))
    finally:
        unconnected.emit_after("worker_shutdown", None)


def test_several_arguments_are_told_apart() -> None:
    @job(queue_name="reports")
    def add(first: int, second: int = 0, **rest: str) -> None: ...

    assert add.message(1, second=2, note="x").kwargs == {"note": "x"}
    with pytest.raises(InvalidPayload, match=r"\$\.second: Expected `int`, got `str`"):
        add.message(1, second="2")  # type: ignore[arg-type]
    assert add.payload_type is None


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        (Notification(type="fax", user_id="u", payload={}), "$.type"),  # type: ignore[arg-type]
        ({"type": "in-app", "payload": {}}, "$"),
        ({"type": "in-app", "userId": "u", "payload": {"x": object()}}, "$"),
        (None, "$"),
        ("text", "$"),
    ],
)
def test_a_bad_payload_never_leaves_the_caller(payload: Any, path: str) -> None:
    with pytest.raises(InvalidPayload) as caught:
        send_notification.send(payload)
    assert caught.value.path == path
    with pytest.raises(InvalidPayload):
        send_notification.send_with_options(args=(payload,), delay=1_000)
    with pytest.raises(InvalidPayload):
        send_notification.message(payload)


def test_a_missing_payload_never_leaves_the_caller() -> None:
    with pytest.raises(InvalidPayload, match="missing a required argument"):
        send_notification.send()  # type: ignore[call-arg]


def test_a_pipeline_may_complete_the_arguments() -> None:
    assert send_notification.message_with_options().args == ()


def test_a_bad_payload_is_refused_by_the_job_as_well() -> None:
    with pytest.raises(InvalidPayload, match=r"\$\.type"):
        send_notification({"type": "fax", "userId": "u", "payload": {}})  # type: ignore[arg-type]


def test_a_failure_is_a_queue_processing_error_with_its_cause() -> None:
    cause = LookupError("no such room")
    with pytest.raises(QueueProcessingError, match="fail: LookupError: no such room") as caught:
        failing(cause)()
    assert caught.value.__cause__ is cause
    assert not isinstance(caught.value, PermanentJobError)


def test_what_throws_lists_becomes_permanent() -> None:
    with pytest.raises(PermanentJobError) as caught:
        failing(KeyError("x"), throws=LookupError)()
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    "control",
    [
        Retry("later", delay=5),
        RateLimitExceeded("full"),
        SkipMessage(),
        Interrupt(),
        Shutdown(),
        TimeLimitExceeded(),
        PermanentJobError("over"),
    ],
)
def test_control_flow_passes_untouched(control: BaseException) -> None:
    with pytest.raises(type(control)) as caught:
        failing(control)()
    assert caught.value is control


def test_a_type_that_is_not_there_at_run_time_is_refused_when_declared() -> None:
    def broken(report: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match="broken.*Missing"):
        job(queue_name="reports")(broken)
