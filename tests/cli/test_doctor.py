"""`headrace doctor` and `headrace stats`: what they see, and what they say is to be done."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Message

from broker import StreamsBroker
from broker.cli.exits import Exit
from broker.doctor import Doctor, Severity
from tests.cli.conftest import Headrace, Ran
from tests.conftest import NewServer, StartWorker
from tests.servers import SERVER_KINDS, ServerKind
from tests.waiting import wait_for


def _found(ran: Ran, check: str) -> list[dict[str, Any]]:
    return [each for each in ran.json if each["check"] == check]


@pytest.fixture(params=SERVER_KINDS)
def server_kind(request: pytest.FixtureRequest) -> ServerKind:
    kind: ServerKind = request.param
    return kind


def test_a_sound_server_has_no_errors(headrace: Headrace, broker: StreamsBroker) -> None:
    ran = headrace("doctor", "--json")
    assert ran.status == 0
    assert {each["check"] for each in ran.json if each["severity"] == "error"} == set()
    (scripts,) = _found(ran, "scripts")
    assert scripts["severity"] == "ok"
    assert "append-only" in headrace("doctor").out


def test_what_a_server_must_not_be_is_an_error(
    headrace: Headrace, own_server: NewServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"maxmemory-policy": "allkeys-lru", "maxmemory": "4mb", "appendonly": "yes"}
    monkeypatch.setenv("REDIS_URL", own_server(config=config).url)
    ran = headrace("doctor", "--json")
    assert ran.status == Exit.FAILED
    assert "maxmemory-policy" in _found(ran, "server")[0]["found"]
    assert "of 4.2 MB" in _found(ran, "memory")[0]["found"]
    assert _found(ran, "persistence")[0]["severity"] == "ok"


def test_jobs_without_a_worker_are_an_error_and_a_pause_is_a_warning(
    headrace: Headrace, broker: StreamsBroker
) -> None:
    broker.enqueue(Message("mail", "deliver", (), {}, {}))
    ran = headrace("doctor", "--json")
    assert (ran.status, _found(ran, "queues")[0]["severity"]) == (Exit.FAILED, "error")
    broker.inspector.pause("mail")
    ran = headrace("doctor", "--json")
    assert (ran.status, _found(ran, "queues")[0]["severity"]) == (0, "warning")
    assert _found(ran, "queues")[0]["advice"] == "headrace queues resume mail"
    broker.inspector.close("mail")
    closed, paused = _found(headrace("doctor", "--json"), "queues")
    assert "headrace queues open mail" in closed["advice"]
    assert "headrace queues resume mail" in paused["advice"]


def test_what_a_silent_worker_holds_is_told(broker: StreamsBroker) -> None:
    broker.enqueue(Message("mail", "deliver", (), {}, {}))
    broker.commands.fetch("mail", "gone", 1, lowest_first=False, suspects=1, signals=())
    examined = Doctor(broker.commands, broker.inspector, lease_ms=0).examine()
    (orphans,) = [each for each in examined if each.check == "orphans"]
    assert (orphans.severity, orphans.found) == (
        Severity.WARNING,
        "gone is silent for 0 s and holds 1",
    )


def test_ids_without_messages_are_a_leak(
    headrace: Headrace, broker: StreamsBroker, client: redis.Redis
) -> None:
    broker.enqueue(Message("mail", "deliver", (), {}, {}), delay=60_000)
    client.delete(broker.commands.keys("mail").scheduled_messages)
    (leak,) = _found(headrace("doctor", "--json"), "leaks")
    assert leak["found"] == "mail: 1 ids and 0 messages are scheduled"


def test_an_overdue_schedule_says_that_no_scheduler_runs(
    headrace: Headrace, broker: StreamsBroker, client: redis.Redis
) -> None:
    @dramatiq.actor(queue_name="mail")
    def tidy() -> None: ...

    broker.inspector.schedules.add("often", "tidy", "* * * * *")
    past = str(int(time.time() * 1000) - 3_600_000)
    client.hset(broker.commands.keys("mail").schedules_state, "mark:often", past)
    (told,) = _found(headrace("doctor", "--json"), "schedules")
    assert (told["severity"], told["found"]) == ("error", "overdue: often")
    broker.inspector.close("mail")
    (told,) = _found(headrace("doctor", "--json"), "schedules")
    assert (told["severity"], told["found"]) == ("ok", "none is overdue")


def test_a_user_who_may_not_look_is_told_and_the_other_checks_go_on(
    headrace: Headrace, own_server: NewServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = own_server()
    with redis.Redis.from_url(server.url) as admin:
        admin.execute_command(
            "ACL", "SETUSER", "half", "on", ">geheim", "~*", "&*", "+@all", "-info"
        )
    url = f"redis://half:geheim@127.0.0.1:{server.port}/0"
    monkeypatch.setenv("REDIS_URL", url)
    ran = headrace("doctor", "--json")
    assert _found(ran, "memory")[0]["severity"] == "warning"
    assert _found(ran, "scripts")[0]["severity"] == "ok"
    assert "geheim" not in ran.out + ran.err


def test_stats_tell_rates_between_two_looks(
    headrace: Headrace, broker: StreamsBroker, start_worker: StartWorker
) -> None:
    done = threading.Event()

    @dramatiq.actor(queue_name="mail")
    def deliver() -> None:
        done.set()

    deliver.send()
    start_worker(broker)
    wait_for(done, "the job")
    ran = headrace("stats", "--count", "2", "--every", "100", "--json")
    looks = [json.loads(line) for line in ran.out.splitlines()]
    assert [look["queues"][0]["queue"]["name"] for look in looks] == ["mail", "mail"]
    assert len(looks[1]["workers"]) == 1
    assert "mail" in headrace("stats", "--count", "1").out
