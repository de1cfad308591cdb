from __future__ import annotations

from collections.abc import Iterator

import dramatiq
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from actors.inbox import Inbox, inbox_key
from broker.embedded import EmbeddedValkey


@pytest.fixture
def valkey(valkey_server: EmbeddedValkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_server.url) as client:
        yield client


def test_what_was_appended_is_read_in_order(valkey: redis.Redis, namespace: str) -> None:
    inbox = Inbox(valkey, namespace, "u1")
    for number in range(3):
        inbox.append(f"id-{number}", {"n": number, "text": "👋\0"}, max_length=100)
    items = inbox.read()
    assert [(item.message_id, item.content["n"]) for item in items] == [
        ("id-0", 0),
        ("id-1", 1),
        ("id-2", 2),
    ]
    assert items[0].content["text"] == "👋\0"
    assert [i.message_id for i in inbox.read(after=items[1].position)] == ["id-2"]
    assert Inbox(valkey, namespace, "u2").read() == []


def test_a_repeat_is_read_once(valkey: redis.Redis, namespace: str) -> None:
    inbox = Inbox(valkey, namespace, "u1")
    for message_id in ("id-1", "id-1", "id-2"):
        inbox.append(message_id, {}, max_length=100)
    assert [item.message_id for item in inbox.read()] == ["id-1", "id-2"]


def test_an_inbox_is_capped(valkey: redis.Redis, namespace: str) -> None:
    inbox = Inbox(valkey, namespace, "u1")
    for number in range(500):
        inbox.append(f"id-{number}", {}, max_length=10)
    length = valkey.xlen(inbox_key(namespace, "u1"))
    assert 10 <= length <= 200  # whole nodes of a hundred entries go at once


def test_the_key_bears_the_namespace_and_the_user() -> None:
    assert inbox_key("chatgenius", "u1") == "{chatgenius}:inbox:u1"


def test_a_server_that_is_gone_is_dramatiqs_error() -> None:
    client = redis.Redis(port=1, retry=Retry(NoBackoff(), 0))
    with pytest.raises(dramatiq.errors.BrokerConnectionError):
        Inbox(client, "ns", "u1").append("id", {}, max_length=1)
