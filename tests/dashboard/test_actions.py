"""What operators do, and the lines that it leaves in the audit log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import dramatiq
import pytest
from dramatiq import Actor

from broker import QueueClosed, QueueLimit, State, StreamsBroker
from dashboard import Dashboard
from dashboard.web import Verb
from tests.dashboard.browser import Browser

Audit = Callable[[], list[dict[str, Any]]]


def _state(broker: StreamsBroker, id: str) -> State:
    record = broker.jobs.get(id)
    assert record is not None
    return record.state


def _job(id: str) -> str:
    return f"/queues/mail/job?id={id}"


def test_a_scheduled_job_is_run_now(
    browser: Browser, broker: StreamsBroker, send: Actor[..., None], work: Callable[[], None]
) -> None:
    message = send.send_with_options(args=("a",), delay=3_600_000)
    browser.submit(_job(message.message_id), "/actions/promote")
    work()
    assert broker.jobs.wait(message.message_id, 10_000).state is State.COMPLETED


def test_a_waiting_job_is_cancelled(
    browser: Browser, broker: StreamsBroker, send: Actor[..., None], audit: Audit
) -> None:
    message = send.send("a")
    browser.submit(_job(message.message_id), "/actions/cancel")
    assert _state(broker, message.message_id) is State.CANCELLED
    (line,) = audit()
    assert (line["action"], line["user"], line["outcome"]) == ("cancel", "local", "done")
    assert (line["queueName"], line["jobId"]) == ("mail", message.message_id)


def test_a_dead_job_is_retried(
    browser: Browser, broker: StreamsBroker, send: Actor[..., None], work: Callable[[], None]
) -> None:
    message = send.send("a", refused="once")
    work()
    browser.submit(_job(message.message_id), "/actions/retry")
    assert _state(broker, message.message_id) is State.QUEUED
    assert broker.inspector.queue("mail").dead == 0


def test_a_letter_that_lies_in_another_queue_is_retried_from_either(
    browser: Browser, broker: StreamsBroker, work: Callable[[], None]
) -> None:
    @dramatiq.actor(queue_name="mail", max_retries=0, dead_queue="graveyard")
    def deliver() -> None:
        raise ValueError("no such address")

    message = deliver.send()
    for queue in ("mail", "graveyard"):
        work()
        page = f"/queues/{queue}/job?id={message.message_id}"
        assert "no such address" in browser.page(page)
        answer = browser.submit(page, "/actions/retry")
        assert "Retry: done." in answer.text
        assert _state(broker, message.message_id) is State.QUEUED


def test_a_dead_letter_is_deleted(
    browser: Browser, broker: StreamsBroker, send: Actor[..., None], work: Callable[[], None]
) -> None:
    message = send.send("a", refused="for ever")
    work()
    browser.submit(_job(message.message_id), "/actions/delete")
    assert broker.inspector.queue("mail").dead == 0


def test_a_queue_is_paused_and_resumed(
    browser: Browser, broker: StreamsBroker, send: Actor[..., None]
) -> None:
    send.send("a")
    assert "paused" in browser.submit("/queues/mail/jobs", "/actions/pause").text
    assert broker.inspector.queue("mail").paused
    browser.submit("/queues/mail/jobs", "/actions/resume")
    assert not broker.inspector.queue("mail").paused


def test_a_queue_is_closed_and_opened(
    browser: Browser, broker: StreamsBroker, send: Actor[..., None]
) -> None:
    send.send("a")
    assert "Close: done." in browser.submit("/queues/mail/jobs", "/actions/close").text
    assert ">closed<" in browser.page("/")
    with pytest.raises(QueueClosed):
        send.send("b")
    browser.submit("/queues/mail/jobs", "/actions/open")
    send.send("c")


def test_limits_are_set_and_lifted(
    browser: Browser, broker: StreamsBroker, send: Actor[..., None]
) -> None:
    send.send("a")
    page = "/queues/mail/jobs"
    browser.submit(page, "/actions/limit", global_concurrency="3", rate="10", per_ms="500")
    assert broker.inspector.limit_of("mail") == QueueLimit(3, 10, 500)
    browser.submit(page, "/actions/limit", global_concurrency="", rate="")
    assert broker.inspector.limit_of("mail").rate is None
    answer = browser.submit(page, "/actions/limit", rate="fast")
    assert answer.status_code == 400
    assert "rate" in answer.text


def test_a_payload_is_hidden_until_an_operator_reveals_it(
    operator: Browser, viewer: Browser, send: Actor[..., None], audit: Audit
) -> None:
    message = send.send("olga@example.com")
    path = _job(message.message_id)
    assert "olga@example.com" not in operator.page(path)
    before = len(audit())
    answer = operator.submit(path, "/queues/mail/reveal")
    assert "olga@example.com" in answer.text
    (line,) = audit()[before:]
    assert (line["action"], line["user"], line["outcome"]) == ("reveal", "olga", "done")
    assert "example.com" not in str(line)
    fields = {"__dd_csrf": viewer.form("/", "/sign-out")["__dd_csrf"], "id": message.message_id}
    refused = viewer.post("/queues/mail/reveal", fields)
    assert refused.status_code == 403
    assert "olga@example.com" not in refused.text
    assert audit()[-1]["outcome"] == "refused: role"


def test_a_viewer_sees_no_buttons_and_may_not_act(
    viewer: Browser, broker: StreamsBroker, send: Actor[..., None], audit: Audit
) -> None:
    send.send("a")
    assert "/actions/" not in viewer.page("/queues/mail/jobs")
    token = viewer.form("/", "/sign-out")["__dd_csrf"]
    answer = viewer.post("/actions/pause", {"__dd_csrf": token, "queue": "mail"})
    assert answer.status_code == 403
    assert not broker.inspector.queue("mail").paused
    assert (audit()[-1]["user"], audit()[-1]["outcome"]) == ("viktor", "refused: role")


def test_no_action_is_a_viewers_and_every_try_is_noted(
    viewer: Browser, guarded: Dashboard, send: Actor[..., None], audit: Audit
) -> None:
    message = send.send("a")
    token = viewer.form("/", "/sign-out")["__dd_csrf"]
    fields = {"__dd_csrf": token, "queue": "mail", "id": message.message_id, "name": "nightly"}
    paths = [
        pattern.pattern.strip("^$")
        for pattern, _ in guarded._dispatch_table
        if "actions" in pattern.pattern
    ]
    assert len(paths) == len(get_args(Verb))
    for path in (*paths, "/queues/mail/reveal"):
        before = len(audit())
        assert viewer.post(path, fields).status_code == 403, path
        (line,) = audit()[before:]
        assert (line["user"], line["outcome"]) == ("viktor", "refused: role"), path


def test_an_action_tells_what_it_did_and_no_link_can_say_more(
    browser: Browser, send: Actor[..., None]
) -> None:
    send.send("a")
    assert "Pause: done." in browser.submit("/queues/mail/jobs", "/actions/pause").text
    page = browser.page("/queues/mail/jobs?did=Your+session+is+over:done")
    assert 'class="flash"' not in page


def test_the_arguments_of_what_follows_in_a_pipeline_are_hidden_too(
    browser: Browser, broker: StreamsBroker, send: Actor[..., None]
) -> None:
    following = send.message("olga@example.com")
    message = send.message("a").copy(options={"pipe_target": following.asdict()})
    broker.enqueue(message)
    page = browser.page(_job(message.message_id))
    assert "pipe_target" in page
    assert "olga@example.com" not in page
    revealed = browser.submit(_job(message.message_id), "/queues/mail/reveal")
    assert "olga@example.com" in revealed.text


def test_the_other_librarys_actions_do_the_same(
    browser: Browser, broker: StreamsBroker, send: Actor[..., None], work: Callable[[], None]
) -> None:
    message = send.send("a", refused="once")
    work()
    fields = browser.form(_job(message.message_id), "/actions/retry")
    assert browser.post("/requeue-message", fields).status_code == 302
    assert _state(broker, message.message_id) is State.QUEUED
