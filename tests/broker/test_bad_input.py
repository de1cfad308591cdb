"""Bad input: one typed error each, that names the field and the value, and writes nothing."""

from __future__ import annotations

import dataclasses
import json
import socket
from datetime import timedelta
from decimal import Decimal
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Message
from dramatiq.errors import ActorNotFound, BrokerConnectionError, ConnectionClosed, Retry

from broker import (
    AuthenticationRefused,
    DatabaseRefused,
    EvictionPolicyRefused,
    HeadraceError,
    InvalidOption,
    MessageTooLarge,
    QueueLimit,
    RateLimited,
    ServerOutOfMemory,
    ServerRefused,
    ServerTooOld,
    StreamsBroker,
    UnsupportedClient,
)
from broker.embedded import EmbeddedValkey
from middleware.rate_limits import RateLimits
from tests.applications import application
from tests.broker.old_server import old_server
from tests.conftest import NewBroker, NewServer, StartWorker
from tests.processes import Launcher
from tests.waiting import PATIENCE_S, eventually

IDLE = """
@dramatiq.actor(queue_name="work")
def idle():
    pass
"""


@pytest.fixture
def streams(server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    made = new_broker("streams", server.url, max_message_bytes=10_000)
    assert isinstance(made, StreamsBroker)
    made.declare_queue("work")
    return made


def message(*args: object, actor: str = "record", **options: object) -> Message[None]:
    return Message(queue_name="work", actor_name=actor, args=args, kwargs={}, options=dict(options))


def declare_idle(streams: StreamsBroker) -> dramatiq.Actor[[], None]:
    @dramatiq.actor(queue_name="work", broker=streams)
    def idle() -> None:
        pass

    return idle


def is_empty(streams: StreamsBroker) -> bool:
    info = streams.inspector.queue("work")
    return (info.ready, info.scheduled, info.in_flight, info.dead) == (0, 0, 0, 0)


@pytest.mark.parametrize("priority", [-1, 10, 2**70, "3", 1.5, True, None], ids=repr)
@pytest.mark.parametrize("delay", [None, 1000], ids=["now", "delayed"])
def test_a_priority_out_of_range_is_refused(
    streams: StreamsBroker, priority: object, delay: int | None
) -> None:
    with pytest.raises(InvalidOption) as refusal:
        streams.enqueue(message(broker_priority=priority), delay=delay)
    assert refusal.value.field == "broker_priority"
    assert refusal.value.value == priority
    assert "broker_priority" in str(refusal.value)
    assert repr(priority) in str(refusal.value)
    assert isinstance(refusal.value, ValueError)
    assert is_empty(streams)


@pytest.mark.parametrize("key", ["", 7, b"key", ["key"]], ids=repr)
def test_a_deduplication_key_that_is_no_text_is_refused(
    streams: StreamsBroker, key: object
) -> None:
    with pytest.raises(InvalidOption, match="deduplication_key") as refusal:
        streams.enqueue(message(deduplication_key=key))
    assert refusal.value.value == key
    assert is_empty(streams)


@pytest.mark.parametrize("delay", ["100", True, float("nan"), float("inf"), 2**70], ids=repr)
def test_a_delay_that_is_no_duration_is_refused(streams: StreamsBroker, delay: Any) -> None:
    with pytest.raises(InvalidOption, match="delay"):
        streams.enqueue(message(), delay=delay)
    assert is_empty(streams)


OF_NO_JSON: list[object] = [timedelta(seconds=5), Decimal(1), {1, 2}, b"bytes", Message]


@pytest.mark.parametrize("value", OF_NO_JSON, ids=repr)
def test_an_option_that_is_no_json_is_refused_and_not_made_into_something_else(
    streams: StreamsBroker, value: object
) -> None:
    with pytest.raises(InvalidOption, match="time_limit") as refusal:
        streams.enqueue(message(time_limit=value))
    assert refusal.value.value is value
    assert is_empty(streams)


@pytest.mark.parametrize("option", ["pipe_target", "group_completion_callbacks"])
def test_an_option_that_is_no_json_is_refused_before_a_pipeline_or_a_group_begins(
    streams: StreamsBroker, option: str
) -> None:
    following = message(delay=timedelta(seconds=5)).asdict()
    options: dict[str, Any] = {option: following if option == "pipe_target" else [following]}
    first = message(**options)
    with pytest.raises(InvalidOption, match="delay"):
        streams.enqueue(first)
    assert is_empty(streams)


@pytest.mark.parametrize(
    ("field", "value"), [("message_id", 7), ("message_id", ""), ("message_timestamp", 1.5)]
)
def test_a_message_that_no_worker_could_read_is_refused(
    streams: StreamsBroker, field: str, value: Any
) -> None:
    with pytest.raises(InvalidOption, match=field) as refusal:
        streams.enqueue(dataclasses.replace(message(), **{field: value}))
    assert refusal.value.value == value
    assert is_empty(streams)


@pytest.mark.parametrize("delay", [None, 1000], ids=["now", "delayed"])
def test_a_message_over_the_limit_is_refused_at_the_producer(
    streams: StreamsBroker, delay: int | None
) -> None:
    with pytest.raises(MessageTooLarge) as refusal:
        streams.enqueue(message("x" * 10_001), delay=delay)
    assert refusal.value.actor == "record"
    assert refusal.value.limit == 10_000
    assert 10_001 <= refusal.value.size < 11_000
    for part in ("record", "10000", str(refusal.value.size)):
        assert part in str(refusal.value)
    assert is_empty(streams)


def test_one_message_over_the_limit_refuses_the_whole_batch(streams: StreamsBroker) -> None:
    with pytest.raises(MessageTooLarge):
        streams.enqueue_many([message("small"), message("x" * 10_001)])
    assert is_empty(streams)


def test_a_message_at_the_limit_is_accepted(streams: StreamsBroker) -> None:
    streams.enqueue(message("x" * 9_000))
    assert streams.inspector.queue("work").ready == 1


OPTIONS: list[tuple[str, object]] = [
    ("heartbeat_timeout", 0),
    ("heartbeat_timeout", "60"),
    ("max_deliveries", 0),
    ("max_priority", -1),
    ("max_priority", 256),
    ("max_message_bytes", 0),
    ("dead_message_ttl", -1),
    ("unknown_actor_grace", -1),
    ("namespace", ""),
    ("concurrency", {"work": 0}),
    ("concurrency", {"work": "2"}),
    ("concurrency", 5),
    ("limits", {"work": 5}),
    ("depths", {"work": 5}),
    ("dead_letters", {"work": 5}),
    ("retention", {"work": 5}),
]


@pytest.mark.parametrize(("field", "value"), OPTIONS, ids=lambda v: repr(v))
def test_a_bad_setting_of_the_broker_is_refused_by_name_and_value(
    field: str, value: object
) -> None:
    options: dict[str, Any] = {field: value}
    with pytest.raises(InvalidOption) as refusal:
        StreamsBroker(url="redis://127.0.0.1:1/0", **options)
    assert field in str(refusal.value)
    shown = value["work"] if isinstance(value, dict) else value
    assert repr(shown) in str(refusal.value)


@pytest.mark.parametrize(
    ("limit", "field"),
    [
        (QueueLimit(global_concurrency=0), "global_concurrency"),
        (QueueLimit(rate=0), "rate"),
        (QueueLimit(rate=1, per_ms=0), "per_ms"),
    ],
    ids=str,
)
def test_a_bad_limit_is_refused_by_queue_and_field(limit: QueueLimit, field: str) -> None:
    with pytest.raises(InvalidOption, match=rf"limits\['work'\]\.{field}: .* got 0"):
        StreamsBroker(url="redis://127.0.0.1:1/0", limits={"work": limit})


def test_an_unknown_keyword_is_refused() -> None:
    with pytest.raises((TypeError, HeadraceError), match="heartbeat_timeuot"):
        StreamsBroker(url="redis://127.0.0.1:1/0", heartbeat_timeuot=1000)


@pytest.mark.parametrize("url", ["http://127.0.0.1:6379", "127.0.0.1:6379", "redis://host:port"])
def test_a_url_that_is_none_is_refused_at_construction(url: str) -> None:
    with pytest.raises(ValueError, match=r"(?i)url|port"):
        StreamsBroker(url=url)


def test_a_database_that_the_server_does_not_have_is_refused(
    server: EmbeddedValkey, new_broker: NewBroker
) -> None:
    streams = new_broker("streams", f"{server.url.rpartition('/')[0]}/4000")
    assert isinstance(streams, StreamsBroker)
    for ask in (streams.inspector.queues, lambda: streams.enqueue(message())):
        with pytest.raises(DatabaseRefused, match="DB index is out of range"):
            ask()


def test_a_client_that_decodes_is_refused(server: EmbeddedValkey) -> None:
    with (
        redis.Redis.from_url(server.url, decode_responses=True) as decoding,
        pytest.raises(UnsupportedClient, match="decode_responses"),
    ):
        StreamsBroker(client=decoding)


def test_an_actor_that_is_not_declared_is_not_found(streams: StreamsBroker) -> None:
    with pytest.raises(ActorNotFound, match="nobody"):
        streams.get_actor("nobody")


def test_an_unknown_actors_message_is_buried_under_its_name(
    server: EmbeddedValkey, new_broker: NewBroker, start_worker: StartWorker
) -> None:
    streams = new_broker("streams", server.url, unknown_actor_grace=0)
    assert isinstance(streams, StreamsBroker)
    streams.declare_queue("work")
    start_worker(streams)
    streams.enqueue(message("value", actor="nobody"))
    (letter,) = eventually(
        lambda: streams.inspector.dead("work"), lambda found: len(found) == 1, what="the burial"
    )
    assert (letter.reason, letter.actor) == ("unknown_actor", "nobody")
    assert "nobody" in letter.error


def test_an_undecodable_body_is_buried_as_it_came(
    streams: StreamsBroker, start_worker: StartWorker, client: redis.Redis, namespace: str
) -> None:
    client.xadd(f"{{{namespace}:work}}:ready:0", {"id": "1", "actor": "record", "args": b"\xff"})
    start_worker(streams)
    (letter,) = eventually(
        lambda: streams.inspector.dead("work"), lambda found: len(found) == 1, what="the burial"
    )
    assert letter.reason == "undecodable"
    assert letter.fields["args"] == b"\xff"
    assert "work" in letter.error


@pytest.mark.parametrize("option", ["correlation_id", "deduplication_key", "traceparent"], ids=str)
def test_an_option_that_is_no_utf_8_hinders_no_end(
    streams: StreamsBroker,
    start_worker: StartWorker,
    client: redis.Redis,
    namespace: str,
    option: str,
) -> None:
    done = declare_idle(streams)
    lone_surrogate = json.dumps({option: "00-\ud800"})
    client.xadd(
        f"{{{namespace}:work}}:ready:0",
        {"id": "1", "actor": done.actor_name, "at": 1, "args": "[]", "options": lone_surrogate},
    )
    start_worker(streams)
    streams.join("work", timeout=int(PATIENCE_S * 1000))
    assert not streams.inspector.dead("work")


@pytest.mark.parametrize("error", [Retry("later", delay=10**30), RateLimited(10**30)], ids=repr)
def test_a_delay_for_ever_is_one_of_very_long(
    streams: StreamsBroker, start_worker: StartWorker, error: Exception
) -> None:
    streams.add_middleware(RateLimits())

    @dramatiq.actor(queue_name="work", broker=streams)
    def put_off() -> None:
        raise error

    sent = put_off.send()
    start_worker(streams)
    info = eventually(lambda: streams.inspector.queue("work"), lambda found: found.scheduled == 1)
    assert info.in_flight == 0
    assert streams.jobs.cancel(sent)


def _closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def test_a_server_that_is_not_there_is_a_connection_error_for_the_producer() -> None:
    port = _closed_port()
    streams = StreamsBroker(url=f"redis://127.0.0.1:{port}/0")
    with pytest.raises(ConnectionClosed, match=str(port)):
        streams.enqueue(message())


def test_a_server_that_is_not_there_is_named_and_waited_for(
    launch: Launcher, namespace: str
) -> None:
    """As with RedisBroker: a server that restarts must not end its workers."""
    port = _closed_port()
    worker = launch(application("streams", f"redis://127.0.0.1:{port}/0", namespace, IDLE))
    worker.wait_for_log(f"can't be reached yet: .*{port}")
    worker.wait_until_ready()
    assert worker.terminate() == 0, worker.log


@pytest.fixture
def locked(own_server: NewServer) -> EmbeddedValkey:
    return own_server(config={"requirepass": "correct"})


@pytest.mark.parametrize("password", [None, "wrong"])
def test_a_wrong_password_is_refused_to_the_producer(
    locked: EmbeddedValkey, password: str | None
) -> None:
    with pytest.raises(AuthenticationRefused) as refusal:
        StreamsBroker(url=_with_password(locked.url, password)).enqueue(message())
    assert isinstance(refusal.value, BrokerConnectionError)
    assert password is None or password not in str(refusal.value)


def _with_password(url: str, password: str | None) -> str:
    return url if password is None else url.replace("redis://", f"redis://:{password}@")


@pytest.mark.parametrize("password", [None, "wrong"])
def test_a_wrong_password_ends_the_command_line_with_dramatiqs_code(
    launch: Launcher, locked: EmbeddedValkey, namespace: str, password: str | None
) -> None:
    url = _with_password(locked.url, password)
    worker = launch(application("streams", url, namespace, IDLE))
    assert worker.wait() == 3, worker.log
    assert "AuthenticationRefused" in worker.log


def test_the_right_password_is_accepted(locked: EmbeddedValkey) -> None:
    streams = StreamsBroker(url=_with_password(locked.url, "correct"))
    streams.enqueue(message())
    assert streams.inspector.queue("work").ready == 1
    streams.close()


def start(streams: StreamsBroker) -> None:
    """Boot a Worker of this process, as a program without the command line does."""

    @dramatiq.actor(queue_name="work", broker=streams)
    def idle() -> None:
        raise AssertionError("never runs")

    dramatiq.Worker(streams, worker_threads=1).start()


OLD = ["redis_version:6.2.0", "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:7.2.5"]


@pytest.mark.parametrize("version_line", OLD, ids=["redis 6.2", "valkey 7.2"])
def test_a_server_that_is_too_old_is_refused(version_line: str) -> None:
    version = version_line.rsplit(":", 1)[1]
    with old_server(version_line) as url:
        streams = StreamsBroker(url=url)
        with pytest.raises(ServerTooOld) as refusal:
            start(streams)
        streams.close()
    assert version in str(refusal.value)
    assert isinstance(refusal.value, ServerRefused)


def test_a_server_that_evicts_is_refused(own_server: NewServer) -> None:
    evicting = own_server(config={"maxmemory-policy": "allkeys-lru"})
    streams = StreamsBroker(url=evicting.url)
    with pytest.raises(EvictionPolicyRefused) as refusal:
        start(streams)
    for part in ("maxmemory-policy", "allkeys-lru", "noeviction"):
        assert part in str(refusal.value)
    assert isinstance(refusal.value, ServerRefused)
    streams.close()


def test_a_full_server_refuses_the_enqueue_and_still_lets_jobs_end(
    own_server: NewServer, new_broker: NewBroker, start_worker: StartWorker
) -> None:
    full = own_server()
    streams = new_broker("streams", full.url)
    assert isinstance(streams, StreamsBroker)

    @dramatiq.actor(queue_name="work", max_retries=0)
    def halve(value: int) -> None:
        if value % 2:
            raise ValueError("odd")

    for value in range(10):
        halve.send(value)
    streams.client.config_set("maxmemory", "1mb")
    for delay in (None, 1000):
        with pytest.raises(ServerOutOfMemory):
            halve.send_with_options(args=(1,), delay=delay)
    start_worker(streams)
    streams.join("work", timeout=int(PATIENCE_S * 1000))
    assert streams.inspector.queue("work").dead == 5
    streams.client.config_set("maxmemory", "0")
    halve.send(2)
    streams.join("work", timeout=int(PATIENCE_S * 1000))
