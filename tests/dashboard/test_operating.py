"""Many letters at once, schedules, workers, events, new jobs and searches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from html import unescape
from typing import Any, Literal

import dramatiq
import msgspec
import pytest
from dramatiq import Actor
from dramatiq.errors import ConnectionClosed

from broker import InvalidOption, State, StreamsBroker
from dashboard import Dashboard
from dashboard.forms import FormRefused, fields_of, payload_of
from dashboard.tasks import Task, Tasks
from tests.conftest import StartWorker
from tests.dashboard.browser import NEXT, Browser
from tests.waiting import eventually, wait_for

Audit = Callable[[], list[dict[str, Any]]]
DEAD = "/queues/mail/dead"


def _ended(dashboard: Dashboard) -> Task:
    return eventually(lambda: dashboard.tasks.of("mail")[0], lambda task: task.state != "running")


def _kill(send: Actor[..., None], work: Callable[[], None]) -> None:
    for index in range(5):
        send.send(str(index), refused="full mailbox" if index < 3 else "no such address")
    work()


def test_all_letters_of_a_filter_are_sent_back(
    browser: Browser,
    broker: StreamsBroker,
    dashboard: Dashboard,
    send: Actor[..., None],
    work: Callable[[], None],
    audit: Audit,
) -> None:
    _kill(send, work)
    browser.submit(f"{DEAD}?error=mailbox", "/actions/redrive-all", per_second="1000")
    task = _ended(dashboard)
    assert (task.state, task.done, task.share) == ("done", 3, 1.0)
    info = broker.inspector.queue("mail")
    assert (info.dead, info.ready) == (2, 3)
    assert "redrive all: 3" in browser.page(DEAD)
    eventually(audit, lambda lines: len(lines) == 2)
    begun, ended = audit()
    assert (begun["outcome"], ended["outcome"]) == ("begun", "ended: done")
    assert begun["error"] == ended["error"] == "mailbox"
    assert ended["count"] == 3


def test_all_letters_of_a_filter_are_deleted_if_one_is_sure(
    browser: Browser,
    broker: StreamsBroker,
    dashboard: Dashboard,
    send: Actor[..., None],
    work: Callable[[], None],
) -> None:
    _kill(send, work)
    fields = browser.form(f"{DEAD}?error=address", "/actions/delete-all")
    del fields["sure"]
    assert browser.post("/actions/delete-all", fields).status_code == 400
    assert broker.inspector.queue("mail").dead == 5
    browser.post("/actions/delete-all", fields | {"sure": "yes"})
    assert _ended(dashboard).done == 2
    assert broker.inspector.queue("mail").dead == 3


def test_a_long_task_is_stopped_where_it_is(
    browser: Browser,
    broker: StreamsBroker,
    dashboard: Dashboard,
    send: Actor[..., None],
    work: Callable[[], None],
) -> None:
    _kill(send, work)
    browser.submit(DEAD, "/actions/redrive-all", per_second="1")
    browser.submit(DEAD, "/actions/stop")
    task = _ended(dashboard)
    assert task.state == "stopped"
    assert broker.inspector.queue("mail").dead == 5 - task.done > 0


def test_a_task_that_fails_says_why_and_others_have_to_wait_for_their_turn() -> None:
    tasks, go_on = Tasks(), threading.Event()

    def away() -> Iterator[int]:
        yield 3
        raise ConnectionClosed(OSError("gone"))

    def slow() -> Iterator[int]:
        wait_for(go_on, "the test to go on")
        yield 1

    def task(verb: str) -> Task:
        return Task(verb, "mail", {}, "olga", "10.0.0.1", 10)

    failed = task("redrive all")
    tasks.begin(failed, away())
    eventually(lambda: failed.state, lambda state: state == "failed")
    assert failed.done == 3
    assert failed.error.startswith("ConnectionClosed")
    for _ in range(4):
        tasks.begin(task("slow"), slow())
    with pytest.raises(InvalidOption, match="must wait"):
        tasks.begin(task("one more"), slow())
    go_on.set()
    eventually(lambda: {each.state for each in tasks.of("mail")}, lambda s: s == {"failed", "done"})


def test_a_schedule_is_shown_paused_resumed_and_run(
    browser: Browser, broker: StreamsBroker, send: Actor[..., None], audit: Audit
) -> None:
    broker.inspector.schedules.add("nightly", "send", "0 3 * * *", args=("a",))
    page = browser.page("/schedules")
    assert "nightly" in page
    assert "0 3 * * *" in page
    assert "overdue" not in page
    two_days_ago = str(int(time.time() * 1000) - 172_800_000)
    broker.client.hset(broker.commands.keys("mail").schedules_state, "mark:nightly", two_days_ago)
    assert "overdue" in browser.page("/schedules")
    broker.inspector.close("mail")
    page = browser.page("/schedules")
    assert "overdue" not in page
    assert "queue closed" in page
    broker.inspector.open("mail")
    browser.submit("/schedules", "/actions/pause-schedule")
    assert broker.inspector.schedules.get("nightly").paused
    browser.submit("/schedules", "/actions/resume-schedule")
    assert not broker.inspector.schedules.get("nightly").paused
    browser.submit("/schedules", "/actions/run-schedule")
    assert broker.inspector.queue("mail").ready == 1
    assert [line["action"] for line in audit()] == [
        "pause schedule",
        "resume schedule",
        "run schedule",
    ]
    fields = browser.form("/schedules", "/actions/run-schedule") | {"name": "nobodys"}
    assert browser.post("/actions/run-schedule", fields).status_code == 404


def test_workers_are_shown_with_the_jobs_they_run(
    browser: Browser, broker: StreamsBroker, start_worker: StartWorker
) -> None:
    running, go_on = threading.Event(), threading.Event()

    @dramatiq.actor(queue_name="mail")
    def sleepy() -> None:
        running.set()
        wait_for(go_on, "the test to go on")

    message = sleepy.send()
    start_worker(broker)
    wait_for(running, "the job to begin")
    try:
        page = eventually(lambda: browser.page("/workers"), lambda text: message.message_id in text)
        assert broker.consumer_name in page
        assert "sleepy" in page
        assert message.message_id in browser.page("/queues/mail/jobs?state=running")
    finally:
        go_on.set()


def test_events_are_shown_the_newest_first(
    browser: Browser, send: Actor[..., None], work: Callable[[], None]
) -> None:
    send.send("a", refused="no such address")
    work()
    page = browser.page("/events?queue=mail")
    assert page.index("state--dead") < page.index("state--queued")
    assert browser.get("/events?queue=nobodys").status_code == 404


def test_jobs_are_found_in_all_queues_and_states(
    browser: Browser, send: Actor[..., None], work: Callable[[], None]
) -> None:
    dead = send.send("a", refused="no such address")
    work()
    waiting = send.send_with_options(args=("b",), correlation_id="chain-7")
    for by, text, message in (
        ("id", waiting.message_id, waiting),
        ("correlation", "chain-7", waiting),
        ("error", "such addr", dead),
    ):
        page = browser.page(f"/search?by={by}&for={text}")
        both = [m for m in (dead, waiting) if m.message_id in page]
        assert both == [message]
    found = browser.page("/queues/mail/jobs?state=queued&by=correlation&for=chain-7")
    assert waiting.message_id in found
    path = f"/queues/mail/jobs?by=id&for={waiting.message_id}"
    assert waiting.message_id in browser.page(browser.get(path).headers["location"])
    assert browser.get("/search?by=colour&for=red").status_code == 400


def test_a_page_looks_at_so_many_queues_and_the_next_one_at_others(
    browser: Browser, broker: StreamsBroker
) -> None:
    names = [f"queue-{number:02}" for number in range(25)]
    for name in names:
        broker.enqueue(dramatiq.Message(name, "count", (), {}, {"correlation_id": "chain-7"}))
    for path, count in (("/search?by=correlation&for=chain-7", 10), ("/flows", 20)):
        page, seen = browser.page(path), 1
        while (found := NEXT.search(page)) is not None:
            page, seen = browser.page(unescape(found[1])), seen + 1
        assert seen == -(-len(names) // count)
    page = browser.page("/search?by=correlation&for=chain-7&from=20")
    assert [name in page for name in names] == [False] * 20 + [True] * 5
    assert browser.get("/search?by=actor&for=a&from=ten").status_code == 400


def test_a_dead_letter_is_found_by_its_id_when_its_record_is_gone(
    browser: Browser, broker: StreamsBroker, send: Actor[..., None], work: Callable[[], None]
) -> None:
    dead = send.send("a", refused="no such address")
    work()
    k = broker.commands.keys("mail")
    broker.client.delete(f"{k.job_prefix}{dead.message_id}", k.recent("dead"))
    answer = browser.get(f"/search?by=id&for={dead.message_id}")
    assert "no such address" in browser.page(answer.headers["location"])


class Address(msgspec.Struct, rename="camel"):
    street_name: str


class Parcel(msgspec.Struct, rename="camel"):
    user_id: str
    kind: Literal["letter", "box"]
    address: Address
    weight: float | None = None
    urgent: bool = False
    tags: list[str] = []
    copies: int = 1


FORM = {
    "payload.userId": "u1",
    "payload.kind": "box",
    "payload.address.streetName": "High Street",
    "payload.weight": "1.5",
    "payload.urgent": "yes",
    "payload.tags": '["a"]',
    "payload.copies": "",
}


def test_a_form_has_an_input_for_each_field_of_the_payload() -> None:
    fields = fields_of(Parcel)
    assert [(f.input, f.required) for f in fields] == [
        ("text", True),
        ("choice", True),
        ("group", True),
        ("number", False),
        ("flag", False),
        ("json", False),
        ("integer", False),
    ]
    payload = payload_of(fields, FORM)
    assert payload == {
        "userId": "u1",
        "kind": "box",
        "address": {"streetName": "High Street"},
        "weight": 1.5,
        "urgent": True,
        "tags": ["a"],
    }
    assert msgspec.convert(payload, Parcel).copies == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [("payload.userId", ""), ("payload.weight", "heavy"), ("payload.tags", "[")],
)
def test_a_field_that_is_filled_in_wrongly_is_named(name: str, text: str) -> None:
    with pytest.raises(FormRefused, match=name):
        payload_of(fields_of(Parcel), FORM | {name: text})


def test_a_job_is_enqueued_from_its_form(
    browser: Browser, broker: StreamsBroker, send: Actor[..., None], audit: Audit
) -> None:
    taken: list[dict[str, Any]] = []

    class Typed(Actor[..., Any]):
        payload_type = Parcel

    @dramatiq.actor(queue_name="mail", actor_class=Typed)
    def post(parcel: dict[str, Any]) -> None:
        taken.append(parcel)

    page = "/enqueue?actor=post"
    browser.submit(page, "/actions/enqueue", **FORM, delay_ms="60000", priority="3")
    (record,) = broker.jobs.list("mail", State.SCHEDULED).records
    message = broker.contents.of("mail", record.id, opened=True)
    assert message is not None
    assert message.args[0]["address"] == {"streetName": "High Street"}
    assert message.options["broker_priority"] == 3
    (line,) = audit()
    assert line["actor"] == "post"
    assert "High Street" not in str(line)
    assert browser.submit(page, "/actions/enqueue").status_code == 400
    browser.submit("/enqueue?actor=send", "/actions/enqueue", args='["a"]', kwargs="{}")
    assert broker.inspector.queue("mail").ready == 1
    answer = browser.submit("/enqueue?actor=send", "/actions/enqueue", args="{}")
    assert answer.status_code == 400
