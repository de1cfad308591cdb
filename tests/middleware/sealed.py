"""What the tests of encryption share: keys, a job, and a look at what shows in Redis."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any, Final

import dramatiq
import redis

from broker import StreamsBroker
from broker.dead_letter import DeadLetter
from middleware.keyring import Key, KeyRing
from tests.waiting import PATIENCE_S, eventually

#: The fixture `build`: an encryption or None, further middleware, the broker's options.
Build = Callable[..., StreamsBroker]

QUEUE: Final = "work"
TIMEOUT_MS: Final = int(PATIENCE_S * 1000)
SECRET: Final = "the-canary-4711"
KEY: Final = Key("k1", bytes(range(32)))
OTHER_KEY: Final = Key("k2", bytes(range(1, 33)))
RING: Final = KeyRing([KEY], KEY.id)


def leaks(client: redis.Redis, namespace: str, secret: str = SECRET) -> list[bytes]:
    """The keys of a namespace in whose name or value the secret shows."""
    wanted = secret.encode()
    return [
        key
        for key in client.scan_iter(f"*{namespace}*", count=1000)
        if wanted in key or wanted in repr(_value(client, key)).encode()
    ]


def _value(client: Any, key: bytes) -> object:
    # Not by DUMP, which compresses: a secret in it need not show.
    match client.type(key):
        case b"hash":
            return client.hgetall(key)
        case b"stream":
            return client.xrange(key)
        case b"list":
            return client.lrange(key, 0, -1)
        case b"set":
            return client.smembers(key)
        case b"zset":
            return client.zrange(key, 0, -1, withscores=True)
        case b"string":
            return client.get(key)
        case _:
            return None


def encrypting(broker: StreamsBroker, seen: queue.Queue[Any], **options: Any) -> Any:
    """An encrypted actor, `note`, that notes its arguments and returns the first."""

    @dramatiq.actor(
        broker=broker,
        queue_name=QUEUE,
        actor_name="note",
        **{"encrypted": True, "max_retries": 0, **options},
    )
    def note(*args: Any, **kwargs: Any) -> Any:
        seen.put((args, kwargs))
        return args[0] if args else None

    return note


def entries(broker: StreamsBroker, queue_name: str = QUEUE) -> list[dict[bytes, bytes]]:
    """The entries of a queue, as they lie in Redis."""
    client: Any = broker.client
    return [fields for _, fields in client.xrange(ready(broker, queue_name))]


def ready(broker: StreamsBroker, queue_name: str = QUEUE) -> str:
    return f"{{{broker.namespace}:{queue_name}}}:ready:0"


def record(broker: StreamsBroker, message_id: str, queue_name: str = QUEUE) -> str:
    return f"{{{broker.namespace}:{queue_name}}}:job:{message_id}"


def letter(broker: StreamsBroker, queue_name: str = QUEUE) -> DeadLetter:
    """The one dead letter, once it is there."""
    letters = eventually(
        lambda: broker.inspector.dead(queue_name), lambda found: len(found) == 1, what="burial"
    )
    return letters[0]


def add(broker: StreamsBroker, fields: dict[bytes, bytes], queue_name: str = QUEUE) -> None:
    """An entry by whoever may write to the stream."""
    client: Any = broker.client
    client.xadd(ready(broker, queue_name), fields)


def add_recorded(
    broker: StreamsBroker, fields: dict[bytes, bytes], queue_name: str = QUEUE
) -> None:
    """As :func:`add`, with a record of its message, as an enqueue makes one."""
    client: Any = broker.client
    client.hsetnx(record(broker, fields[b"id"].decode(), queue_name), "token", "t")
    add(broker, fields, queue_name)
