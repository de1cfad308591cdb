"""The ceiling: what redis-py alone does on one stream, without a job system around it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from uuid import uuid4

import redis

GROUP, CONSUMER = "workers", "bare"
#: Entries read, and then acknowledged and deleted, in one go.
BATCH = 100


def append(url: str, name: str, entries: int) -> float:
    """Seconds for so many calls of `Redis.xadd`."""
    client = redis.Redis.from_url(url)
    client.ping()
    begin = time.perf_counter()
    for fields in _entries(entries):
        client.xadd(name, dict(fields))  # type: ignore[arg-type]
    return time.perf_counter() - begin


def append_packed(url: str, name: str, entries: int) -> float:
    """Seconds for so many commands written to a connection, each reply read before the next."""
    connection = redis.Redis.from_url(url).connection_pool.get_connection()
    begin = time.perf_counter()
    for fields in _entries(entries):
        flat = [part for field in fields.items() for part in field]
        connection.send_packed_command(connection.pack_command("XADD", name, "*", *flat))
        connection.read_response()
    return time.perf_counter() - begin


def read(url: str, name: str, entries: int) -> float:
    """Seconds to read so many entries through a group, acknowledge and delete them."""
    client = redis.Redis.from_url(url)
    with client.pipeline(transaction=False) as pipe:
        for fields in _entries(entries):
            pipe.xadd(name, dict(fields))  # type: ignore[arg-type]
        pipe.execute()
    client.xgroup_create(name, GROUP, id="0")
    left = entries
    begin = time.perf_counter()
    while left:
        ids = _next_batch(client, name)
        with client.pipeline(transaction=False) as pipe:
            pipe.xack(name, GROUP, *ids)
            pipe.xdel(name, *ids)
            pipe.execute()
        left -= len(ids)
    return time.perf_counter() - begin


def _next_batch(client: redis.Redis, name: str) -> list[bytes]:
    reply = client.execute_command(
        "XREADGROUP", "GROUP", GROUP, CONSUMER, "COUNT", BATCH, "STREAMS", name, ">"
    )
    pairs = reply.items() if isinstance(reply, dict) else reply
    [(_, found)] = pairs
    # RESP3 wraps a stream's entries once more.
    entries = found[0] if found and isinstance(found[0][0], (list, tuple)) else found
    return [entry[0] for entry in entries]


def _entries(count: int) -> Iterator[dict[str, str]]:
    """As many fields as a job of Headrace has."""
    for number in range(count):
        yield {
            "id": str(uuid4()),
            "actor": "noop",
            "at": str(time.time_ns() // 1_000_000),
            "args": f"[{number}]",
        }
