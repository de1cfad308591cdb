"""A secret goes through a real worker in every way that a job can end, and shows nowhere.

Nowhere: no key of Redis, whatever its type, and no line of the worker's log at its most verbose.
A word that is not encrypted takes the same ways, to show that it would be found.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Message
from dramatiq.results import ResultFailure, Results
from dramatiq.results.backends import RedisBackend

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from middleware.encryption import Encryption
from middleware.keyring import KeyRing, new_key
from tests.middleware.sealed import OTHER_KEY, QUEUE, SECRET, Build, add_recorded, entries, leaks
from tests.processes import Launcher
from tests.waiting import PATIENCE_S, eventually

CONTROL = "the-sparrow-0815"
TIMEOUT_MS = int(PATIENCE_S * 1000)

WORKER = """
import dramatiq
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from broker import StreamsBroker
from broker.settings import Settings
from middleware.stack import stack

broker = StreamsBroker(url={url!r}, namespace={namespace!r}, middleware=stack(Settings.load()))
broker.add_middleware(Results(backend=RedisBackend(url={url!r}, namespace={results!r},
                                                   use_namespace_prefix_keys=True)))
dramatiq.set_broker(broker)


def actor(**options):
    return dramatiq.actor(queue_name={queue!r}, max_retries=1, min_backoff=10, **options)


@actor(store_results=True)
def succeed(word):
    return word


@actor(store_results=True, on_failure="hear")
def fail(word):
    try:
        int(word)
    except ValueError as error:
        raise RuntimeError("can't do " + word) from error


@actor(throws=(ValueError,))
def expected(word):
    raise ValueError(word)


@actor()
async def fail_in_a_task(word):
    raise KeyError(word)


@actor(on_success="hear")
def tell(word):
    return None


@actor()
def hear(*words):
    pass


@actor(encrypted=False)
def in_clear(word):
    raise ValueError(word)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The keys, and settings by which everything is encrypted that doesn't say otherwise."""
    settings = tmp_path / "settings.toml"
    settings.write_text("[encryption]\ndefault = true\n", encoding="utf-8")
    return {"HEADRACE_KEYS": f"now:{new_key()}", "HEADRACE_SETTINGS": str(settings)}


@pytest.fixture
def sender(
    build: Build, valkey_server: EmbeddedValkey, environment: dict[str, str]
) -> StreamsBroker:
    """The application's side, with the worker's keys."""
    ring = KeyRing.from_text(environment["HEADRACE_KEYS"])
    broker = build(Encryption(ring, default=True))
    backend = RedisBackend(
        url=valkey_server.url,
        namespace=f"{broker.namespace}:results",
        use_namespace_prefix_keys=True,
    )
    broker.add_middleware(Results(backend=backend))
    return broker


def send(broker: StreamsBroker, actor: str, word: str, **options: Any) -> Message[Any]:
    delay = options.pop("delay", None)
    message: Message[Any] = Message(QUEUE, actor, (word,), {}, options)
    return broker.enqueue(message, delay=delay)


@pytest.mark.faults
def test_67_a_secret_shows_in_no_key_and_in_no_line_of_the_log(
    build: Build,
    sender: StreamsBroker,
    client: redis.Redis,
    valkey_server: EmbeddedValkey,
    environment: dict[str, str],
    launch: Launcher,
) -> None:
    namespace = sender.namespace
    build(Encryption(KeyRing([OTHER_KEY], OTHER_KEY.id), default=True)).enqueue(
        Message(QUEUE, "succeed", (SECRET,), {}, {})  # for which the worker has no key
    )
    dramatiq.set_broker(sender)
    succeeded, failed = (send(sender, actor, SECRET) for actor in ("succeed", "fail"))
    for actor in ("expected", "fail_in_a_task", "tell"):
        send(sender, actor, SECRET)
    send(sender, "hear", SECRET, delay=400, broker_priority=2)
    send(sender, "succeed", SECRET, delay=600_000)
    stolen = entries(sender)[1]
    add_recorded(sender, {**stolen, b"id": b"another"})

    @dramatiq.actor(broker=sender, queue_name=QUEUE, encrypted=False)
    def in_clear(word: str) -> None: ...

    in_clear.send(CONTROL)
    assert leaks(client, namespace) == []

    source = WORKER.format(
        url=valkey_server.url, namespace=namespace, results=f"{namespace}:results", queue=QUEUE
    )
    worker = launch(source, "--verbose", environment=environment)
    assert succeeded.get_result(block=True, timeout=TIMEOUT_MS) == SECRET
    with pytest.raises(ResultFailure, match=SECRET):
        failed.get_result(block=True, timeout=TIMEOUT_MS)
    eventually(
        lambda: sender.inspector.queue(QUEUE),
        lambda info: (info.ready, info.in_flight, info.scheduled) == (0, 0, 1),
        what="all but the message of the next hour",
    )
    reasons = {found.reason for found in sender.inspector.dead(QUEUE)}
    assert reasons == {"retries_exhausted", "rejected", "undecryptable", "unauthenticated"}

    assert leaks(client, namespace) == []
    assert worker.terminate() == 0
    assert SECRET not in worker.log
    assert leaks(client, namespace, CONTROL) != []
    for shown in ("RuntimeError", "KeyError", "in fail", "undecryptable"):
        assert shown in worker.log
