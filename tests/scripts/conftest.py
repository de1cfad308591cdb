"""One queue of three levels, seen from both sides: the scripts' and the raw keys'."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from broker.commands import Commands, Fetched, Handed, NewMessage, Settlement
from broker.entry import Fields
from broker.keys import QueueKeys
from broker.outcome import Outcome, Settled
from broker.scripts import Argument, script

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

    def __post_init__(self) -> None:
        self.commands = Commands(self.client, self.namespace, LEVELS - 1)
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
        fields: Fields | None = None,
    ) -> NewMessage:
        if fields is None:
            fields = fields_of(message_id)
        return NewMessage(message_id, level, key, successor, fields)

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
        signals: Iterable[bytes] = (),
    ) -> Fetched:
        return self.commands.fetch(
            QUEUE,
            consumer,
            count,
            lowest_first=lowest_first,
            suspects=suspects,
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

    def run(self, name: str, keys: Iterable[str], *args: Argument) -> Any:
        """A script with these very arguments."""
        return script(name).run(self.client, list(keys), args)

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

    def snapshot(self) -> dict[str, Any]:
        """All keys of the queue with all they hold, but for idle times."""
        prefix = f"{{{self.namespace}:{QUEUE}}}:"
        names = sorted(name.decode() for name in self.client.scan_iter(match=f"{prefix}*"))
        return {name.removeprefix(prefix): self._content(name) for name in names}

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


@pytest.fixture
def scripts(client: redis.Redis, namespace: str) -> Scripts:
    return Scripts(client, namespace)
