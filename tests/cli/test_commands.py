"""Each command does what it says, tells people and programs, and fails with its status."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq import Message

from broker import QueueLimit, State, StreamsBroker
from broker.cli.exits import Exit
from tests.cli.conftest import Headrace
from tests.conftest import StartWorker
from tests.waiting import eventually, wait_for


def _send(broker: StreamsBroker, count: int = 1, delay: int | None = None) -> list[Message[object]]:
    messages: list[Message[object]] = [
        Message("mail", "deliver", (number,), {}, {}) for number in range(count)
    ]
    return broker.enqueue_many(messages, delay=delay)


def _bury(broker: StreamsBroker, start_worker: StartWorker, *errors: str) -> None:
    """Leave one dead letter for each error."""

    @dramatiq.actor(queue_name="mail", max_retries=0, broker=broker)
    def deliver(error: str) -> None:
        raise ValueError(error)

    worker = start_worker(broker)
    for error in errors:
        deliver.send(error)
    eventually(lambda: broker.inspector.queue("mail").dead, lambda dead: dead == len(errors))
    worker.stop()


# -- queues -----------------------------------------------------------------------------


def test_queues_are_listed_with_their_counts(headrace: Headrace, broker: StreamsBroker) -> None:
    _send(broker, 3)
    _send(broker, 2, delay=60_000)
    (told,) = headrace("queues", "ls", "--json").json
    assert (told["name"], told["ready"], told["scheduled"]) == ("mail", 3, 2)
    table = headrace("queues", "ls")
    assert table.status == 0
    assert table.out.splitlines()[1].split()[:3] == ["mail", "3", "2"]


def test_no_queues_are_none(headrace: Headrace) -> None:
    assert headrace("queues", "ls").out == "none\n"
    assert headrace("queues", "ls", "--json").json == []


def test_a_queue_is_shown_with_limits_and_traffic(
    headrace: Headrace, broker: StreamsBroker
) -> None:
    _send(broker, 3)
    broker.inspector.limit("mail", QueueLimit(rate=5, per_ms=2_000))
    told = headrace("queues", "show", "mail", "--json").json
    assert told["limit"] == {"global_concurrency": None, "rate": 5, "per_ms": 2_000}
    assert told["traffic"] == {"entered": 3, "left": 0}
    assert "5 in 2000 ms" in headrace("queues", "show", "mail").out


def test_a_queue_is_paused_and_resumed(headrace: Headrace, broker: StreamsBroker) -> None:
    _send(broker)
    assert headrace("queues", "pause", "mail", "--json").json == {"changed": True}
    assert broker.inspector.queue("mail").paused
    assert headrace("queues", "pause", "mail").out == "was paused already\n"
    assert headrace("queues", "resume", "mail").out == "resumed\n"
    assert not broker.inspector.queue("mail").paused


def test_limits_that_are_not_given_stay(headrace: Headrace, broker: StreamsBroker) -> None:
    _send(broker)
    headrace("queues", "set", "mail", "--rate", "10", "--per", "1000")
    headrace("queues", "set", "mail", "--concurrency", "4")
    assert broker.inspector.limit_of("mail") == QueueLimit(4, 10, 1_000)
    told = headrace("queues", "set", "mail", "--rate", "0", "--json").json
    assert told == {
        "changed": True,
        "limit": {"global_concurrency": 4, "rate": None, "per_ms": 1_000},
    }
    assert broker.inspector.limit_of("mail") == QueueLimit(4)


def test_a_purge_asks_first(
    headrace: Headrace, broker: StreamsBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    _send(broker, 450)
    refused = headrace("queues", "purge", "mail")  # nobody answers: standard input is empty
    assert (refused.status, broker.inspector.queue("mail").ready) == (Exit.FAILED, 450)
    assert headrace("queues", "purge", "mail", "--yes", "--json").json == {"dropped": 450}
    assert broker.inspector.size("mail") == 0


@pytest.mark.parametrize("command", ["show", "pause", "resume", "set", "purge"])
def test_a_queue_that_is_not_there_is_not_found(headrace: Headrace, command: str) -> None:
    ran = headrace("queues", command, "mial")
    assert (ran.status, ran.err) == (Exit.NOT_FOUND, "headrace: queue: there is no 'mial'\n")


# -- jobs -------------------------------------------------------------------------------


def test_jobs_are_listed_by_state_in_pages(headrace: Headrace, broker: StreamsBroker) -> None:
    sent = [message.message_id for message in _send(broker, 3)]
    first = headrace("jobs", "ls", "mail", "--limit", "2", "--json").json
    assert [record["id"] for record in first["records"]] == sent[:2]
    rest = headrace("jobs", "ls", "mail", "--after", first["cursor"], "--json").json
    assert [record["id"] for record in rest["records"]] == sent[2:]
    assert headrace("jobs", "ls", "mail", "--state", "running").out == "none\n"


def test_a_job_is_shown(headrace: Headrace, broker: StreamsBroker) -> None:
    (message,) = _send(broker)
    told = headrace("jobs", "show", message.message_id, "--json").json
    assert (told["state"], told["actor"], told["queue"]) == ("queued", "deliver", "mail")
    assert "queued" in headrace("jobs", "show", message.message_id).out


@pytest.mark.parametrize("command", ["show", "wait", "cancel", "retry", "promote"])
def test_a_job_that_is_not_there_is_not_found(headrace: Headrace, command: str) -> None:
    ran = headrace("jobs", command, "nobody")
    assert (ran.status, ran.out) == (Exit.NOT_FOUND, "")
    assert "no record of job 'nobody'" in ran.err


def test_a_time_in_the_wrong_unit_is_shown_as_its_number(
    headrace: Headrace, broker: StreamsBroker, start_worker: StartWorker
) -> None:
    @dramatiq.actor(queue_name="mail", broker=broker)
    def deliver() -> None: ...

    start_worker(broker)
    in_us: Any = {"id": "foreign", "actor": "deliver", "at": "1796031186645324", "args": "[]"}
    broker.client.xadd(broker.commands.keys("mail").ready[0], in_us)
    broker.client.sadd(f"{{{broker.namespace}}}:queues", "mail")
    shown = ("jobs", "ls", "mail", "--state", "completed")
    eventually(lambda: headrace(*shown).out, lambda out: " 1796031186645324 " in out)
    assert headrace("jobs", "show", "foreign").out.count("1796031186645324") == 1


def test_a_waiting_job_is_cancelled_once(headrace: Headrace, broker: StreamsBroker) -> None:
    (message,) = _send(broker)
    assert headrace("jobs", "cancel", message.message_id).out == "cancelled\n"
    again = headrace("jobs", "cancel", message.message_id)
    assert again.status == Exit.FAILED
    assert again.err.endswith("is cancelled\n")


def test_the_worker_of_a_running_job_is_asked_to_end_it(
    headrace: Headrace, broker: StreamsBroker
) -> None:
    (message,) = _send(broker)
    broker.commands.fetch("mail", "tester", 1, lowest_first=False, suspects=1, signals=())
    told = headrace("jobs", "cancel", message.message_id, "--json").json
    assert told == {"cancelled": False, "asked": True}


def test_a_scheduled_job_is_promoted(
    headrace: Headrace, broker: StreamsBroker, start_worker: StartWorker
) -> None:
    done = threading.Event()

    @dramatiq.actor(queue_name="mail")
    def deliver(number: int) -> None:
        done.set()

    start_worker(broker)
    (message,) = _send(broker, delay=3_600_000)
    assert headrace("jobs", "promote", message.message_id).status == 0
    wait_for(done, "the promoted job")
    waited = headrace("jobs", "wait", message.message_id, "--json")
    assert (waited.status, waited.json["state"]) == (0, "completed")
    assert headrace("jobs", "promote", message.message_id).status == Exit.FAILED


def test_a_wait_that_is_too_short_says_so(headrace: Headrace, broker: StreamsBroker) -> None:
    (message,) = _send(broker)
    ran = headrace("jobs", "wait", message.message_id, "--timeout", "10")
    assert ran.status == Exit.TIMED_OUT


def test_a_dead_job_is_retried_and_the_wait_for_it_fails(
    headrace: Headrace, broker: StreamsBroker, start_worker: StartWorker
) -> None:
    _bury(broker, start_worker, "no such address")
    (letter,) = broker.inspector.dead("mail")
    waited = headrace("jobs", "wait", letter.id, "--json")
    assert (waited.status, waited.json["state"]) == (Exit.FAILED, "dead")
    assert headrace("jobs", "retry", letter.id).out == "retried\n"
    record = broker.jobs.get(letter.id)
    assert record is not None
    assert record.state is State.QUEUED
    assert headrace("jobs", "retry", letter.id).status == Exit.FAILED


def test_a_dead_job_is_retried_whichever_queue_has_its_letter(
    headrace: Headrace, broker: StreamsBroker, start_worker: StartWorker
) -> None:
    @dramatiq.actor(queue_name="mail", max_retries=0, dead_queue="graveyard", broker=broker)
    def deliver() -> None:
        raise ValueError("no such address")

    worker = start_worker(broker)
    message = deliver.send()
    eventually(lambda: broker.inspector.queue("graveyard").dead, lambda dead: dead == 1)
    worker.stop()
    assert headrace("jobs", "retry", message.message_id).out == "retried\n"
    assert broker.inspector.queue("mail").ready == 1


# -- dead letters -----------------------------------------------------------------------


def test_dead_letters_are_listed_shown_and_counted(
    headrace: Headrace, broker: StreamsBroker, start_worker: StartWorker
) -> None:
    _bury(broker, start_worker, "one", "two")
    page = headrace("dead", "ls", "mail", "--error", "two", "--json").json
    (letter,) = page["letters"]
    assert letter["error"] == "ValueError: two"
    (group,) = headrace("dead", "ls", "mail", "--groups", "--json").json
    assert (group["count"], group["error_type"]) == (2, "ValueError")
    shown = headrace("dead", "show", "mail", letter["id"])
    assert "raise ValueError(error)" in shown.out
    assert "\nargs " not in shown.out
    told = headrace("dead", "show", "mail", letter["id"], "--payload", "--json").json
    assert told["args"] == ["two"]


def test_a_redrive_says_what_it_would_move_and_moves_what_it_said(
    headrace: Headrace, broker: StreamsBroker, start_worker: StartWorker
) -> None:
    _bury(broker, start_worker, "one", "two", "three")
    one = ("dead", "redrive", "mail", "--error", "one")
    assert headrace(*one, "--dry-run", "--json").json == {"would_move": 1}
    assert broker.inspector.queue("mail").dead == 3
    assert headrace(*one).out == "moved 1\n"
    ids = [letter.id for letter in broker.inspector.dead("mail")]
    assert headrace("dead", "redrive", "mail", ids[0], "--json").json == {"moved": 1}
    assert headrace("dead", "redrive", "mail", "--per-second", "100").out == "moved 1\n"
    assert broker.inspector.queue("mail").dead == 0


@pytest.mark.parametrize("what", [("redrive",), ("redrive", "--dry-run"), ("purge", "--yes")])
def test_letters_that_are_not_there_are_no_success(
    headrace: Headrace, broker: StreamsBroker, start_worker: StartWorker, what: tuple[str, ...]
) -> None:
    _bury(broker, start_worker, "one")
    command, *options = what
    ran = headrace("dead", command, "mail", "nobody", *options)
    assert ran.status == Exit.NOT_FOUND
    assert "no dead letter 'nobody' in 'mail'" in ran.err
    assert broker.inspector.queue("mail").dead == 1


def test_a_redrive_names_what_can_not_move(
    headrace: Headrace, broker: StreamsBroker, start_worker: StartWorker
) -> None:
    _bury(broker, start_worker, "one")
    junk: dict[Any, Any] = {f"field {number}": "x" for number in range(4_500)}
    broker.client.xadd(broker.commands.keys("mail").ready[0], junk)
    worker = start_worker(broker)
    eventually(lambda: broker.inspector.queue("mail").dead, lambda dead: dead == 2)
    worker.stop()
    ran = headrace("dead", "redrive", "mail")
    assert ran.status == Exit.FAILED
    assert "1 dead letters moved, and 1 can't" in ran.err
    assert broker.inspector.queue("mail").dead == 1


def test_a_reason_that_is_none_is_refused(headrace: Headrace, broker: StreamsBroker) -> None:
    _send(broker)
    ran = headrace("dead", "redrive", "mail", "--reason", "bad luck")
    assert ran.status == Exit.USAGE
    assert "--reason" in ran.err


def test_dead_letters_are_dropped(
    headrace: Headrace, broker: StreamsBroker, start_worker: StartWorker
) -> None:
    _bury(broker, start_worker, "one")
    assert headrace("dead", "purge", "mail").status == Exit.FAILED
    assert headrace("dead", "purge", "mail", "--older-than", "60000", "-y").out == "dropped 0\n"
    assert headrace("dead", "purge", "mail", "--yes").out == "dropped 1\n"


def test_dead_letters_of_a_filter_are_dropped_and_the_others_stay(
    headrace: Headrace, broker: StreamsBroker, start_worker: StartWorker
) -> None:
    _bury(broker, start_worker, "one", "two", "three")
    purge = ("dead", "purge", "mail", "--error", "one")
    assert headrace(*purge, "--dry-run", "--json").json == {"would_drop": 1}
    assert headrace(*purge, answer="y\n").out.strip() == "dropped 1"
    (id, _) = [letter.id for letter in broker.inspector.dead("mail")]
    assert headrace("dead", "purge", "mail", id, "--yes").out == "dropped 1\n"
    assert broker.inspector.queue("mail").dead == 1


def test_control_characters_in_an_error_do_not_reach_the_terminal(
    headrace: Headrace, broker: StreamsBroker, start_worker: StartWorker
) -> None:
    _bury(broker, start_worker, "\x1b[2J[red]gone")
    out = headrace("dead", "ls", "mail").out
    assert "\x1b" not in out
    assert "\\x1b[2J[red]gone" in out


# -- workers, schedules, events ---------------------------------------------------------


def test_workers_are_listed(
    headrace: Headrace, broker: StreamsBroker, start_worker: StartWorker
) -> None:
    started, release = threading.Event(), threading.Event()

    @dramatiq.actor(queue_name="mail")
    def deliver(number: int) -> None:
        started.set()
        wait_for(release, "permission")

    start_worker(broker)
    _send(broker)
    wait_for(started, "the job")
    (worker,) = headrace("workers", "--json").json
    release.set()
    assert worker["in_flight"] == {"mail": 1}
    assert str(worker["pid"]) in headrace("workers").out


def test_schedules_are_listed_paused_resumed_and_removed(
    headrace: Headrace, broker: StreamsBroker
) -> None:
    @dramatiq.actor(queue_name="mail")
    def tidy() -> None: ...

    broker.inspector.schedules.add("nightly", "tidy", "0 3 * * *")
    (told,) = headrace("schedules", "ls", "--json").json
    assert (told["schedule"]["name"], told["paused"]) == ("nightly", False)
    assert headrace("schedules", "pause", "nightly").out == "paused\n"
    assert "paused" in headrace("schedules", "ls").out
    assert headrace("schedules", "resume", "nightly").out == "resumed\n"
    assert headrace("schedules", "pause", "daily").status == Exit.NOT_FOUND
    assert headrace("schedules", "remove", "nightly").out == "removed\n"
    assert headrace("schedules", "ls", "--json").json == []
    assert headrace("schedules", "remove", "nightly").status == Exit.NOT_FOUND


def test_events_are_followed_over_all_queues(headrace: Headrace, broker: StreamsBroker) -> None:
    _send(broker)
    broker.enqueue(Message("files", "convert", (), {}, {}))
    ran = headrace("events", "tail", "--start", "0-0", "--count", "2", "--json")
    assert ran.status == 0
    assert sorted(line.split('"queue": ')[1].split(",")[0] for line in ran.out.splitlines()) == [
        '"files"',
        '"mail"',
    ]


# -- all of them ------------------------------------------------------------------------


def test_a_server_that_is_away_has_its_own_status(
    headrace: Headrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:geheim@127.0.0.1:1/0")
    ran = headrace("queues", "ls")
    assert ran.status == Exit.UNREACHABLE
    assert "geheim" not in ran.err


def test_a_wrong_setting_has_its_own_status(
    headrace: Headrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "http://:geheim@localhost")
    ran = headrace("queues", "ls")
    assert (ran.status, "geheim" in ran.err) == (Exit.USAGE, False)


@pytest.mark.parametrize(
    "arguments",
    [
        *(("queues", "lss"), ("queue",), ("queues", "show"), ("jobs", "ls", "m", "--state=x")),
        ("events", "tail", "mail", "--start", "yesterday"),
        ("events", "tail", "--start", "18446744073709551616-0"),
        ("jobs", "ls", "mail", "--limit", "99999999999999999999"),
        ("stats", "--every", "99999999999999999999"),
        ("--app", ":broker", "queues", "ls"),
    ],
)
def test_a_wrong_command_line_is_refused(
    headrace: Headrace, broker: StreamsBroker, arguments: tuple[str, ...]
) -> None:
    _send(broker)
    assert headrace(*arguments).status == Exit.USAGE


@pytest.mark.parametrize("option", ["args=[]", "kwargs={}", "delay=3", "self=1"])
def test_what_a_send_takes_beside_options_is_no_option(
    headrace: Headrace, broker: StreamsBroker, option: str
) -> None:
    payload = '{"type": "in-app", "userId": "u", "payload": {"text": "t"}}'
    ran = headrace("jobs", "enqueue", "send_notification", payload, "--option", option)
    assert (ran.status, len(ran.err.splitlines())) == (Exit.USAGE, 1)


@pytest.mark.parametrize(
    ("source", "told"), [("def f(:", "SyntaxError"), ("1 / 0", "ZeroDivisionError: division by")]
)
def test_an_application_that_does_not_begin_is_told_in_one_line(
    headrace: Headrace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    namespace: str,
    source: str,
    told: str,
) -> None:
    module = f"broken_{namespace.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    ran = headrace("--app", module, "queues", "ls")
    assert ran.status == Exit.USAGE
    (line,) = ran.err.splitlines()
    assert told in line
