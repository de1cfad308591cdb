"""What the pages show of jobs in every state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dramatiq import Actor

from broker import StreamsBroker
from dashboard import Dashboard
from tests.dashboard.browser import Browser


def test_the_overview_shows_queues_workers_and_the_server(
    browser: Browser, send: Actor[..., None], work: Callable[[], None], dashboard: Dashboard
) -> None:
    send.send("a")
    work()
    send.send_with_options(args=("b",), delay=60_000)
    dashboard.sampler.look()
    page = browser.page("/")
    assert 'href="/queues/mail/jobs"' in page
    assert "valkey" in page
    assert "polyline" in page


def test_a_queue_nobody_used_is_not_found(browser: Browser, send: Actor[..., None]) -> None:
    assert browser.get("/queues/nobodys/jobs").status_code == 404


def test_a_queues_tabs_have_the_jobs_of_each_state(
    browser: Browser, send: Actor[..., None], work: Callable[[], None]
) -> None:
    completed, dead = send.send("a"), send.send("b", refused="no such address")
    work()
    queued = send.send("c")
    scheduled = send.send_with_options(args=("d",), delay=60_000)
    for state, message in (
        ("completed", completed),
        ("dead", dead),
        ("queued", queued),
        ("scheduled", scheduled),
    ):
        page = browser.page(f"/queues/mail/jobs?state={state}")
        shown = [m for m in (completed, dead, queued, scheduled) if m.message_id in page]
        assert shown == [message], state


def test_pages_of_a_queue_follow_each_other(browser: Browser, send: Actor[..., None]) -> None:
    ids = [send.send(str(index)).message_id for index in range(60)]
    first = browser.page("/queues/mail/jobs")
    (more,) = [part.split('"')[0] for part in first.split('rel="next" href="')[1:]]
    second = browser.page(more.replace("&amp;", "&"))
    shown = [[id for id in ids if id in page] for page in (first, second)]
    assert [len(each) for each in shown] == [50, 10]
    assert sorted(shown[0] + shown[1]) == sorted(ids)


def test_addresses_of_dramatiq_dashboard_lead_to_ours(
    browser: Browser, send: Actor[..., None]
) -> None:
    send.send("a")
    for path, ours in (
        ("/queues/mail", "/queues/mail/jobs?state=queued"),
        ("/queues/mail/delayed", "/queues/mail/jobs?state=scheduled"),
        ("/queues/mail/failed/abc", "/queues/mail/job?id=abc"),
    ):
        assert browser.get(path).headers["location"] == ours


def test_a_dead_job_tells_error_traceback_and_attempts(
    browser: Browser, send: Actor[..., None], work: Callable[[], None]
) -> None:
    message = send.send("b", refused="no such address")
    work()
    page = browser.page(f"/queues/mail/job?id={message.message_id}")
    for text in ("Refused: no such address", "Traceback", "retries_exhausted", "started"):
        assert text in page


def test_an_unknown_job_is_not_found(browser: Browser, send: Actor[..., None]) -> None:
    send.send("a")
    assert browser.get("/queues/mail/job?id=nobodys").status_code == 404
    assert browser.get("/queues/mail/job").status_code == 400


def test_a_time_in_the_wrong_unit_is_shown_as_its_number(
    browser: Browser, broker: StreamsBroker, send: Actor[..., None], work: Callable[[], None]
) -> None:
    in_us: Any = {"id": "foreign", "actor": "send", "at": "1796031186645324", "args": '["a"]'}
    broker.client.xadd(broker.commands.keys("mail").ready[0], in_us)
    send.send("b")
    work()
    jobs, job, found = "/queues/mail/jobs?state=completed", "job?id=foreign", "by=actor&for=send"
    for path in (jobs, f"/queues/mail/{job}", f"/search?{found}"):
        assert ">1796031186645324<" in browser.page(path)


def test_dead_letters_are_counted_by_kind_and_filtered(
    browser: Browser, send: Actor[..., None], work: Callable[[], None]
) -> None:
    kept = send.send("a", refused="full mailbox")
    other = send.send("b", refused="no such address")
    work()
    assert "Refused" in browser.page("/queues/mail/dead")
    page = browser.page("/queues/mail/dead?error=mailbox")
    assert kept.message_id in page
    assert other.message_id not in page
    assert kept.message_id not in browser.page("/queues/mail/dead?older_than_min=60")


def test_what_breaks_a_filters_rule_is_told(browser: Browser, send: Actor[..., None]) -> None:
    send.send("a")
    answer = browser.get("/queues/mail/dead?reason=bad+luck")
    assert answer.status_code == 400
    assert "bad luck" in answer.text


def test_names_that_are_no_text_are_shown_and_acted_on(
    browser: Browser, broker: StreamsBroker, send: Actor[..., None], work: Callable[[], None]
) -> None:
    send.send("a")
    key = broker.commands.keys("mail").ready[0]
    broker.client.xadd(key, {"id": b"\xff\xfe", "actor": b"\xff", "at": "1", "args": "no JSON"})
    work()
    (letter,) = broker.inspector.dead("mail")
    browser.page("/queues/mail/dead")
    fields = browser.form("/queues/mail/dead", "/actions/delete")
    assert browser.post("/actions/delete", fields).status_code == 302
    assert broker.inspector.dead("mail") == [], letter
