"""All that the server holds of one queue, read in two round trips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from broker.keys import GROUP, QueueKeys

ENDS = ("completed", "dead", "cancelled")
Owner = tuple[str, int]
"""Consumer and delivery count."""


@dataclass(frozen=True)
class Snapshot:
    """The keys' contents by name; what is not there is empty."""

    names: set[str]
    entries: list[list[tuple[bytes, list[bytes]]]]
    """Entry id and flat fields, one list a level."""
    owners: list[dict[bytes, Owner]]
    """Of pending entries, one dict a level."""
    scheduled: dict[str, float]
    scheduled_messages: dict[str, bytes]
    dead: dict[str, float]
    dead_messages: dict[str, bytes]
    dedup: dict[str, str]
    lapsing: set[str]
    """Deduplication keys that have a time of their own."""
    control: dict[str, str]
    signals: int
    """How many were ever written."""
    waiting_signals: int
    unread: set[bytes]
    """Signals that a consumer has read and not yet handed in."""
    records: dict[str, tuple[dict[str, str], int]]
    """Id -> fields and time to live in ms, -1 for none."""
    recent: dict[str, set[str]]
    """State -> ids of the jobs that ended so, of which a record is kept."""


def read(client: Any, keys: QueueKeys) -> Snapshot:
    pipe = client.pipeline(transaction=False)
    for stream in keys.ready:
        pipe.xrange(stream)
        pipe.xpending_range(stream, GROUP, "-", "+", 10_000)
    for index in (keys.scheduled, keys.dead, keys.lapsing):
        pipe.zrange(index, 0, -1, withscores=True)
    for mapping in (keys.scheduled_messages, keys.dead_messages, keys.dedup, keys.control):
        pipe.hgetall(mapping)
    pipe.xinfo_stream(keys.wake)
    pipe.xpending_range(keys.wake, GROUP, "-", "+", 10_000)
    for state in ENDS:
        pipe.zrange(keys.recent(state), 0, -1)
    pipe.keys(f"*{keys.namespace}*")
    replies = pipe.execute(raise_on_error=False)
    levels, rest = replies[: 2 * len(keys.ready)], replies[2 * len(keys.ready) :]
    scheduled, dead, lapsing, scheduled_messages, dead_messages, dedup, control, *rest = rest
    wake, unread, *recent, found = rest
    names = {name.decode() for name in found}
    return Snapshot(
        names=names,
        entries=[[(id, _flat(fields)) for id, fields in reply] for reply in levels[::2]],
        owners=[
            {row["message_id"]: (row["consumer"].decode(), row["times_delivered"]) for row in reply}
            for reply in map(_present, levels[1::2])
        ],
        scheduled={id.decode(): score for id, score in scheduled},
        scheduled_messages=_by_name(scheduled_messages),
        dead={id.decode(): score for id, score in dead},
        dead_messages=_by_name(dead_messages),
        dedup=_texts(dedup),
        lapsing={key.decode() for key, _ in lapsing},
        control=_texts(control),
        signals=0 if isinstance(wake, Exception) else wake["entries-added"],
        waiting_signals=0 if isinstance(wake, Exception) else wake["length"],
        unread={row["message_id"] for row in _present(unread)},
        records=_records(client, keys.job_prefix, names),
        recent={
            state: {id.decode() for id in ids} for state, ids in zip(ENDS, recent, strict=True)
        },
    )


def _present(reply: Any) -> Any:
    """No group yet is nothing pending."""
    return [] if isinstance(reply, Exception) else reply


def _flat(fields: dict[bytes, bytes]) -> list[bytes]:
    return [part for pair in fields.items() for part in pair]


def _by_name(mapping: dict[bytes, bytes]) -> dict[str, bytes]:
    return {name.decode(): value for name, value in mapping.items()}


def _texts(mapping: dict[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in mapping.items()}


def _records(client: Any, prefix: str, names: set[str]) -> dict[str, tuple[dict[str, str], int]]:
    ids = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    pipe = client.pipeline(transaction=False)
    for id in ids:
        pipe.hgetall(prefix + id)
        pipe.pttl(prefix + id)
    replies = pipe.execute()
    return {
        id: (_texts(fields), ttl)
        for id, fields, ttl in zip(ids, replies[::2], replies[1::2], strict=True)
    }
