"""The demo's users, and that its check names what they should have got and should not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from bench.demo.access import Access, check_access
from bench.demo.journal import Event, History
from bench.demo.users import Users
from broker.embedded import EmbeddedValkey


@pytest.fixture
def users(tmp_path: Path) -> Iterator[Users]:
    made = Users("demo")
    config = {"aclfile": made.write(tmp_path / "users.acl")}
    with EmbeddedValkey(tmp_path / "valkey", config=config) as server:
        yield made.at(server.url)


def history() -> History:
    made = History()
    made.add([Event(kind="noted", at_ms=1, pid=1, message_id="m1", note="fired")])
    return made


def found(users: Users) -> list[str]:
    seen = Access()
    seen.gather(users, history(), "mail")
    return check_access(seen).faults


def test_users_that_get_what_they_should_have_no_fault(users: Users) -> None:
    with redis.Redis.from_url(users.url("worker")) as worker:
        worker.xadd("{demo:mail}:events", {"event": "queued"})
    assert found(users) == []


def test_a_command_that_work_wanted_and_did_not_get_is_named(users: Users) -> None:
    denied = pytest.raises(redis.exceptions.NoPermissionError)
    with redis.Redis.from_url(users.url("producer")) as producer, denied:
        producer.flushall()
    assert found(users) == ["headrace-producer was refused flushall (toplevel)"]


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        (("headrace-producer", "+xrange", "~*"), "producer XRANGE was let through"),
        (("headrace-admin", "+config"), "admin CONFIG was let through"),
        (("default", "on", "nopass", "+ping"), "nobody PING was let through"),
    ],
)
def test_a_user_who_may_too_much_is_named(users: Users, rules: tuple[str, ...], named: str) -> None:
    with redis.Redis.from_url(users.owner_url) as owner:
        owner.execute_command("ACL", "SETUSER", *rules)
    assert found(users) == [named]


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda seen: seen.pages.update(workers=503), "page /workers: 503"),
        (lambda seen: setattr(seen, "fires", 0), "the scheduler made no fire"),
    ],
)
def test_a_part_that_did_not_work_is_named(spoil: Callable[[Access], object], named: str) -> None:
    seen = Access(fires=1, pages={"workers": 200})
    spoil(seen)
    assert check_access(seen).faults == [named]
