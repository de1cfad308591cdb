"""Row 63: what each role may do and what not, as the server itself says it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import redis

from broker.keys import QueueKeys, cancel_channel, queues_key
from broker.roles import ROLES, RoleName, user

#: What would hurt, with the roles that may do it all the same.
MATRIX: list[tuple[tuple[str, ...], set[RoleName]]] = [
    (("XADD", "{ready}", "*", "id", "1"), {"producer", "worker", "scheduler", "admin"}),
    (("XRANGE", "{ready}", "-", "+"), {"worker", "dashboard", "admin"}),
    (("XREAD", "STREAMS", "{ready}", "0"), set()),
    (("XREADGROUP", "GROUP", "workers", "c", "STREAMS", "{ready}", ">"), {"worker", "admin"}),
    (("XACK", "{ready}", "workers", "1-1"), {"worker", "admin"}),
    (("XDEL", "{ready}", "1-1"), {"worker", "admin"}),
    (("XTRIM", "{ready}", "MAXLEN", "0"), set()),
    (("DEL", "{ready}"), set()),
    (("UNLINK", "{dead}"), set()),
    (("XGROUP", "DESTROY", "{ready}", "workers"), set()),
    (("HSET", "{control}", "paused", "1"), {"worker", "admin"}),
    (("HGET", "{scheduled_messages}", "1"), {"worker", "dashboard", "admin"}),
    (("HSET", "{scheduled_messages}", "1", "x"), {"producer", "worker", "admin"}),
    (("HGET", "{dead_messages}", "1"), {"worker", "dashboard", "admin"}),
    (("HDEL", "{dead_messages}", "1"), {"worker", "admin"}),
    (("HSET", "{job}", "state", "completed"), {"producer", "worker", "scheduler", "admin"}),
    (("HSET", "{schedules}", "nightly", "x"), {"scheduler", "admin"}),
    (("HDEL", "{schedules}", "nightly"), {"admin"}),
    (("XADD", "{elsewhere}", "*", "id", "1"), set()),
    (("EVAL", "return 1", "1", "{elsewhere}"), set()),
    (("GET", "somebody:else"), set()),
    (("PUBLISH", "{channel}", "1"), {"worker", "admin"}),
    (("SUBSCRIBE", "{channel}"), {"worker", "admin"}),
    (("PUBLISH", "other", "1"), set()),
    (("SMEMBERS", "{queues}"), {"worker", "scheduler", "dashboard", "admin"}),
    (("SREM", "{queues}", "mail"), set()),
    (("SCRIPT", "LOAD", "return 1"), {"admin"}),
    (("INFO",), {"worker", "dashboard", "admin"}),
    *(
        (command, set())
        for command in [
            *(("KEYS", "*"), ("SCAN", "0"), ("FLUSHALL",), ("FLUSHDB",), ("RANDOMKEY",)),
            *(("CONFIG", "GET", "*"), ("CONFIG", "SET", "dir", "/"), ("SHUTDOWN",), ("SAVE",)),
            *(("ACL", "LIST"), ("ACL", "SETUSER", "me", "on"), ("DEBUG", "SLEEP", "9")),
            *(("SCRIPT", "FLUSH"), ("FUNCTION", "LOAD", "x"), ("MODULE", "LIST"), ("MONITOR",)),
            *(("CLIENT", "KILL", "TYPE", "normal"), ("CLIENT", "LIST"), ("REPLICAOF", "no", "one")),
            *(("RENAME", "{ready}", "{dead}"), ("COPY", "{ready}", "{dead}"), ("DUMP", "{ready}")),
            *(("RESTORE", "{ready}", "0", "x"), ("SWAPDB", "0", "1")),
            ("MIGRATE", "h", "1", "{ready}", "0", "1"),
        ]
    ),
]  # fmt: skip


#: Those that are not a queue's, but the namespace's or anybody's.
_OF_NO_QUEUE = {"{elsewhere}", "{channel}", "{queues}"}

MayRun = Callable[[Sequence[str]], bool]


def _named(namespace: str, queue: str) -> dict[str, str]:
    keys = QueueKeys(namespace, queue, 9)
    return {
        "ready": keys.ready[0],
        "dead": keys.dead,
        "control": keys.control,
        "scheduled_messages": keys.scheduled_messages,
        "dead_messages": keys.dead_messages,
        "job": keys.job_prefix + "1",
        "schedules": keys.schedules,
        "elsewhere": QueueKeys(f"{namespace}2", queue, 9).ready[0],
        "channel": cancel_channel(namespace),
        "queues": queues_key(namespace),
    }


def _said(command: tuple[str, ...], named: dict[str, str]) -> list[str]:
    return [part.format(**named) if part.startswith("{") else part for part in command]


@pytest.fixture
def may_run(client: redis.Redis, namespace: str) -> Iterator[Callable[..., MayRun]]:
    """Make a role's user; gives what the server says of its commands."""
    names: list[str] = []

    def make(role: RoleName, **options: Any) -> MayRun:
        made = user(role, namespace, name=f"{role}-{namespace}", **options)
        client.execute_command("ACL", "SETUSER", made.name, *made.rules)
        names.append(made.name)
        return lambda said: client.execute_command("ACL", "DRYRUN", made.name, *said) == b"OK"

    yield make
    client.execute_command("ACL", "DELUSER", *names)


@pytest.mark.parametrize("role", ROLES)
def test_63_each_role_may_do_what_its_work_takes_and_no_more(
    may_run: Callable[..., MayRun], namespace: str, role: RoleName
) -> None:
    allowed, named = may_run(role), _named(namespace, "mail")
    for command, roles in MATRIX:
        said = _said(command, named)
        assert allowed(said) is (role in roles), (role, said)


@pytest.mark.parametrize("role", ROLES)
def test_63_a_user_of_one_queue_may_do_nothing_with_another(
    may_run: Callable[..., MayRun], namespace: str, role: RoleName
) -> None:
    allowed = may_run(role, queues=["mail"])
    own, other = _named(namespace, "mail"), _named(namespace, "files")
    for command, roles in MATRIX:
        if not any(part.startswith("{") and part not in _OF_NO_QUEUE for part in command):
            continue
        assert allowed(_said(command, own)) is (role in roles), (role, command)
        assert not allowed(_said(command, other)), (role, command)
