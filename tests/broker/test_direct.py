"""Scripts on the pool's connections: no reply is crossed, and no enqueue is lost or doubled."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from dramatiq import Message
from redis.connection import Connection

from broker import StreamsBroker
from broker.direct import Direct
from broker.embedded import EmbeddedValkey
from tests.conftest import NewBroker


class Interrupted(BaseException):
    """What TimeLimit or Ctrl-C raise into a thread, wherever it is."""


def message(value: int) -> Message[None]:
    return Message(queue_name="work", actor_name="record", args=(value,), kwargs={}, options={})


def once(error: BaseException, real: Any) -> Any:
    """Raise in the first call only, after the command was sent."""
    errors = [error]

    def call(*args: Any, **kwargs: Any) -> Any:
        if errors:
            raise errors.pop()
        return real(*args, **kwargs)

    return call


@pytest.fixture
def streams(server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    made = new_broker("streams", server.url)
    assert isinstance(made, StreamsBroker)
    made.enqueue(message(0))
    return made


@pytest.mark.parametrize("when", ["in the handshake", "in a command"])
def test_a_reply_nobody_waited_for_answers_no_other_command(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    direct = Direct(client.connection_pool)
    if when == "in a command":
        direct.execute_command("PING")
    monkeypatch.setattr(Connection, "read_response", once(Interrupted(), Connection.read_response))
    with pytest.raises(Interrupted):
        direct.execute_command("ECHO", "first")
    assert direct.execute_command("ECHO", "second") == b"second"
    assert client.echo("third") == b"third"


def test_a_refusal_keeps_the_connection(client: redis.Redis) -> None:
    direct = Direct(client.connection_pool)
    before = direct.execute_command("CLIENT", "ID")
    with pytest.raises(redis.ResponseError):
        direct.execute_command("NO-SUCH-COMMAND")
    assert direct.execute_command("CLIENT", "ID") == before


def test_an_enqueue_whose_reply_was_lost_is_repeated_and_makes_one_entry(
    streams: StreamsBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = redis.ConnectionError("reset by a test")
    monkeypatch.setattr(Connection, "read_response", once(lost, Connection.read_response))
    streams.enqueue(message(1))
    assert streams.inspector.queue("work").ready == 2


def test_an_enqueue_goes_through_after_the_server_closed_idle_connections(
    streams: StreamsBroker, client: redis.Redis
) -> None:
    for connection in client.client_list():
        if connection["id"] != str(client.client_id()):
            client.client_kill_filter(_id=connection["id"])
    streams.enqueue(message(1))
    assert streams.inspector.queue("work").ready == 2


def test_a_client_of_ones_own_class_runs_the_scripts_itself(
    server: EmbeddedValkey, namespace: str
) -> None:
    seen: list[str] = []

    class Traced(redis.Redis):
        def execute_command(self, *args: Any, **options: Any) -> Any:
            seen.append(args[0])
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    with Traced.from_url(server.url) as traced:
        StreamsBroker(client=traced, namespace=namespace).enqueue(message(1))
    assert "EVALSHA" in seen


def test_a_blocking_read_ends_when_it_is_due_and_not_when_the_server_looks(
    client: redis.Redis, namespace: str
) -> None:
    stream = f"{{{namespace}}}:stream"
    client.xgroup_create(stream, "g", mkstream=True)
    read = ("XREADGROUP", "GROUP", "g", "c", "BLOCK", 60_000, "STREAMS", stream, ">")
    direct = Direct(client.connection_pool)
    assert direct.pipeline_until(0.01, read, ("ECHO", "after")) == [None, b"after"]
    client.xadd(stream, {"a": "1"})
    (reply, after) = direct.pipeline_until(60.0, read, ("ECHO", "after"))
    assert "[b'a', b'1']" in str(reply)  # in the shape of either protocol
    assert after == b"after"
    assert client.echo("next") == b"next"
