"""What a queue leaves behind when all its jobs have ended: nothing that stays for ever unasked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from broker.packing import unpack

#: Keys that are looked at, and as many in one round trip.
_MOST, _PAGE = 50_000, 1_000
#: What a queue keeps, each in one key, however many jobs it has had.
_OWN = re.compile(
    r"ready:\d+|wake|control|scheduled(:messages)?|dead(:messages)?|dedup(:lapsing)?|events|"
    r"outbox|tally|recent:(completed|dead|cancelled)|schedules(:state)?|flows:deadlines|taken:.*|"
    r"aside(:events)?|positions|replays|queues"
)
#: What has its own end: an expiry, but for a flow that runs.
_EXPIRING = re.compile(r"(limit|rate-line|slots|slots-line|leader):|notices$|flow:")
#: Streams that are trimmed, to whole nodes.
_LONGEST = {"wake": 1_000, "events": 11_000}


def leftovers(client: Any, namespace: str) -> list[str]:
    """What nobody documents or will ever remove, in words; of a large server a part of the keys."""
    found: list[str] = []
    queues: dict[str, set[str]] = {}
    for key, ttl_ms in _keys(client, namespace):
        tag, _, name = key.partition("}:")
        queue = tag.removeprefix(f"{{{namespace}").removeprefix(":")
        if name.startswith("job:"):
            if ttl_ms == -1:
                queues.setdefault(queue, set()).add(name.removeprefix("job:"))
        elif _EXPIRING.match(name):
            if ttl_ms == -1 and not name.startswith("flow:"):
                found.append(f"{key} never expires")
        elif _OWN.fullmatch(name) is None:
            found.append(f"{key} is no key of a queue")
        else:
            queues.setdefault(queue, set())
    for queue, records in queues.items():
        found += _of_queue(client, f"{{{namespace}:{queue}}}", records)
    return found


def _keys(client: Any, namespace: str) -> Iterator[tuple[str, int]]:
    names = islice(client.scan_iter(match=f"{{{namespace}[:}}]*", count=_PAGE), _MOST)
    while page := list(islice(names, _PAGE)):
        with client.pipeline(transaction=False) as pipe:
            for name in page:
                pipe.pttl(name)
            for name, ttl_ms in zip(page, pipe.execute(), strict=True):
                if ttl_ms != -2:  # it expired in between
                    yield name.decode("utf-8", "replace"), ttl_ms


def _of_queue(client: Any, prefix: str, records: set[str]) -> Iterator[str]:
    """``records`` are the ids of those that never expire."""
    held_by = client.hgetall(f"{prefix}:dedup")
    live: set[bytes] = set(client.hkeys(f"{prefix}:scheduled:messages"))
    for name in client.scan_iter(match=f"{prefix}:ready:*", count=_PAGE):
        live |= {fields[b"id"] for _, fields in client.xrange(name) if b"id" in fields}
        held = _pending(client, name)
        if held > (there := client.xlen(name)):
            yield f"{name.decode()}: {held} deliveries of {there} entries"
    indexed = {
        id
        for state in ("completed", "dead", "cancelled")
        for id in client.zrange(f"{prefix}:recent:{state}", 0, -1)
    }
    for packed in client.hvals(f"{prefix}:dead:messages"):
        parts = unpack(packed)
        indexed.add(dict(zip(parts[::2], parts[1::2], strict=True)).get(b"id", b""))
    for id in sorted(records - {id.decode("utf-8", "replace") for id in live | indexed}):
        yield f"{prefix}:job:{id} never expires, and its job has ended"
    for key, id in held_by.items():
        if id not in live:
            yield f"{prefix}:dedup: {key!r} is held by {id!r}, which has ended"
    for key in set(client.zrange(f"{prefix}:dedup:lapsing", 0, -1)) - held_by.keys():
        yield f"{prefix}:dedup:lapsing: {key!r} is held by nobody"
    for name, most in _LONGEST.items():
        if client.xlen(f"{prefix}:{name}") > most:
            yield f"{prefix}:{name} is longer than {most}"


def _pending(client: Any, stream: bytes) -> int:
    groups = client.xinfo_groups(stream)
    return sum(group["pending"] for group in groups)
