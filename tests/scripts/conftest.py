"""One queue of three levels, seen from both sides: the scripts' and the raw keys'."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from broker.commands import Commands, Fetched, Handed
from broker.delivery import Lease
from broker.entry import Fields
from broker.keys import QueueKeys
from broker.new_message import Claim, NewMessage
from broker.outcome import Bury, Outcome, Settled
from broker.packing import unpack
from broker.roles import user
from broker.scripts import Argument, script
from broker.settlement import Settlement
from tests.conftest import NewServer

QUEUE = "work"
LEVELS = 3
GROUP = "workers"

Pending = tuple[bytes, str, int]
"""Entry id, consumer, delivery count."""


def fields_of(message_id: str, **more: str | bytes) -> Fields:
    """The fields of an entry as a client writes them."""
    flat: Fields = ["id", message_id, "actor", "record", "at", "1", "args", "[]"]
    for name, value in more.items():
        flat += (name, value)
    return flat


@dataclass
class Scripts:
    """The typed commands of one queue, and everything that they leave in the server."""

    client: Any  # redis-py's types allow decoded replies everywhere
    namespace: str
    #: Who runs the scripts: a user who may do what their text says and no more.
    runner: Any

    def __post_init__(self) -> None:
        self.commands = Commands(self.runner, self.namespace, LEVELS - 1)
        self.keys: QueueKeys = self.commands.keys(QUEUE)
        self._tokens = 0

    # -- what a producer and a worker do

    def token(self) -> str:
        self._tokens += 1
        return f"token-{self._tokens}"

    def new(
        self,
        message_id: str,
        level: int = 0,
        *,
        key: str = "",
        successor: bool = False,
        recorded: bool = False,
        fields: Fields | None = None,
    ) -> NewMessage:
        if fields is None:
            fields = fields_of(message_id)
        claim = Claim(key) if key else None
        return NewMessage(message_id, "record", level, claim, successor, recorded, fields)

    def enqueue(self, *messages: NewMessage | str, token: str | None = None) -> list[str]:
        made = [self.new(each) if isinstance(each, str) else each for each in messages]
        return self.commands.enqueue(QUEUE, token or self.token(), made)

    def schedule(
        self, *messages: NewMessage | str, delay_ms: int = 60_000, token: str | None = None
    ) -> list[str]:
        made = [self.new(each) if isinstance(each, str) else each for each in messages]
        return self.commands.schedule(QUEUE, token or self.token(), delay_ms, made)

    def fetch(
        self,
        count: int = 10,
        *,
        consumer: str = "c1",
        lowest_first: bool = False,
        suspects: int = 1,
        taken: Sequence[Handed] = (),
        tell: bool = True,
        signals: Iterable[bytes] = (),
    ) -> Fetched:
        return self.commands.fetch(
            QUEUE,
            consumer,
            count,
            lowest_first=lowest_first,
            suspects=suspects,
            taken=taken,
            tell=tell,
            signals=list(signals),
        )

    def take(self, count: int = 10, **options: Any) -> list[Handed]:
        """Fetch, and the deliveries alone."""
        return self.fetch(count, **options).deliveries

    def settle(self, handed: Handed, outcome: Outcome, *, key: str = "") -> Settled:
        (reply,) = self.commands.settle(
            QUEUE, [Settlement(handed.lease, message_id(handed), key, outcome)]
        )
        return reply

    def renew(self, *handed: Handed) -> list[Lease]:
        """Renew them; returns the lost leases."""
        held = [(one.lease, message_id(one)) for one in handed]
        return self.commands.renew(QUEUE, held).lost

    def run(self, name: str, keys: Iterable[str], *args: Argument) -> Any:
        """A script with these very arguments."""
        return script(name).run(self.runner, list(keys), args)

    # -- what is there afterwards

    def pending(self, level: int = 0) -> list[Pending]:
        rows = self.client.xpending_range(self.keys.ready[level], GROUP, "-", "+", 1000)
        return [
            (row["message_id"], row["consumer"].decode(), row["times_delivered"]) for row in rows
        ]

    def entries(self, level: int = 0) -> list[dict[bytes, bytes]]:
        return [fields for _, fields in self.client.xrange(self.keys.ready[level])]

    def ids(self, level: int = 0) -> list[str]:
        return [fields[b"id"].decode() for fields in self.entries(level)]

    def signals(self) -> int:
        return int(self.client.xlen(self.keys.wake))

    def record(self, message_id: str) -> dict[bytes, bytes]:
        return dict(self.client.hgetall(self.keys.job_prefix + message_id))

    def dedup(self) -> dict[bytes, bytes]:
        return dict(self.client.hgetall(self.keys.dedup))

    def now_ms(self) -> int:
        seconds, micros = self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def release(self, handed: Handed, deliveries: int) -> None:
        """Put an entry where a reclaim puts it, after so many deliveries."""
        self.client.xclaim(
            self.keys.ready[handed.lease.level],
            GROUP,
            "~released",
            0,
            [handed.lease.entry_id],
            retrycount=deliveries,
            justid=True,
        )

    def hold(self, message: NewMessage | str, deliveries: int, *, consumer: str = "c1") -> Handed:
        """Enqueue a message and take it so often that this is the count of its delivery."""
        self.enqueue(message)
        (handed,) = self.take(1, consumer=consumer)
        if deliveries > 1:
            self.release(handed, deliveries - 1)
            (handed,) = self.take(1, consumer=consumer)
        return handed

    def age(self, *handed: Handed, idle_ms: int = 60_000) -> None:
        """As if the deliveries had not been renewed for so long."""
        for one in handed:
            self.client.xclaim(
                self.keys.ready[one.lease.level],
                GROUP,
                one.lease.consumer,
                0,
                [one.lease.entry_id],
                idle=idle_ms,
                retrycount=one.lease.count,
                justid=True,
            )

    def idle_ms(self, level: int = 0) -> list[int]:
        rows = self.client.xpending_range(self.keys.ready[level], GROUP, "-", "+", 100)
        return [row["time_since_delivered"] for row in rows]

    def twins(self) -> tuple[Handed, Handed]:
        """One entry id on levels 0 and 1, both taken: m0 and m1."""
        for level in (0, 1):
            self.client.xadd(
                self.keys.ready[level],
                {"id": f"m{level}", "actor": "record", "at": "1", "args": "[]"},
                id="1-1",
            )
        high, low = self.take()
        return low, high

    def bury(self, *names: str, key: str = "") -> None:
        for name in names:
            self.enqueue(self.new(name, key=key))
            (handed,) = self.take()
            self.settle(handed, Bury("rejected", ""), key=key)

    def letters(self) -> list[bytes]:
        """The dead by the time of their death; each has its message, and none is left over."""
        names: list[bytes] = self.client.zrange(self.keys.dead, 0, -1)
        assert sorted(names) == sorted(self.client.hkeys(self.keys.dead_messages))
        return names

    def letter(self, name: str) -> tuple[dict[bytes, bytes], list[bytes]]:
        """A dead letter's evidence and its entry's fields."""
        parts = unpack(self.client.hget(self.keys.dead_messages, name))
        return dict(zip(parts[:22:2], parts[1:22:2], strict=True)), parts[22:]

    def fill_up(self) -> None:
        """Leave the server no memory; on a server of one's own."""
        self.client.config_set("maxmemory", "1")

    def snapshot(self) -> dict[str, Any]:
        """All keys of the queue with all they hold and whether they expire, but for idle times."""
        prefix = f"{{{self.namespace}:{QUEUE}}}:"
        names = sorted(name.decode() for name in self.client.scan_iter(match=f"{prefix}*"))
        return {
            name.removeprefix(prefix): (self._content(name), self.client.pttl(name) >= 0)
            for name in names
        }

    def _content(self, key: str) -> Any:
        kind = self.client.type(key).decode()
        if kind == "hash":
            return self.client.hgetall(key)
        if kind == "zset":
            return self.client.zrange(key, 0, -1, withscores=True)
        assert kind == "stream", f"{key} is a {kind}"
        pending: list[Any] = []
        if self.client.xinfo_groups(key):
            pending = [
                (row["message_id"], row["consumer"], row["times_delivered"])
                for row in self.client.xpending_range(key, GROUP, "-", "+", 1000)
            ]
        return self.client.xrange(key), pending


def message_id(handed: Handed) -> str:
    flat = handed.fields
    mapping = dict(zip(flat[::2], flat[1::2], strict=True))
    return mapping.get(b"id", b"").decode()


@contextmanager
def as_admin(client: redis.Redis, namespace: str) -> Iterator[redis.Redis]:
    """A client that may run every script on the keys of a namespace, as its text says."""
    made = user("admin", namespace, name=f"admin-{namespace}", password=namespace)
    client.execute_command("ACL", "SETUSER", made.name, *made.rules)
    pool = dict(client.connection_pool.connection_kwargs)
    with redis.Redis(
        host=pool["host"], port=pool["port"], username=made.name, password=namespace
    ) as restricted:
        yield restricted
    denied = [row for row in client.acl_log() if row["username"] == made.name]
    client.execute_command("ACL", "DELUSER", made.name)
    # A script may survive a command that is denied to it, and do less than it should.
    assert [(row["reason"], row["object"], row["context"]) for row in denied] == []


@pytest.fixture
def runner(client: redis.Redis, namespace: str) -> Iterator[redis.Redis]:
    """Who runs the scripts on the shared server."""
    with as_admin(client, namespace) as restricted:
        yield restricted


@pytest.fixture
def own_scripts(own_server: NewServer, namespace: str) -> Iterator[Scripts]:
    """As `scripts`, on a server that the test may hurt."""
    with (
        redis.Redis.from_url(own_server().url) as client,
        as_admin(client, namespace) as restricted,
    ):
        yield Scripts(client, namespace, restricted)


@pytest.fixture
def scripts(client: redis.Redis, namespace: str, runner: redis.Redis) -> Scripts:
    return Scripts(client, namespace, runner)
