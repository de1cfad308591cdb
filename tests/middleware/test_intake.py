"""Events of the application's streams become messages, each once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

import dramatiq
import msgspec
import pytest
from dramatiq import Worker
from dramatiq.errors import ConnectionClosed

from broker import StreamsBroker
from broker.clients import derive
from broker.embedded import EmbeddedValkey
from broker.errors import InvalidOption, QueueClosed
from broker.event_source import Event, Source
from broker.intake_commands import IntakeCommands
from broker.limits import QueueDepth
from broker.settings import Settings
from middleware.event_reader import Reader, Subscriber
from middleware.events import on_event
from middleware.intake import EventIntake
from middleware.replay import replay
from middleware.stack import stack
from tests.conftest import NewBroker, StartWorker
from tests.waiting import QUIET_S, eventually

QUEUE = "mentions"
STREAM = "chatgenius:messages"
LEASE_MS = 600


class Posted(msgspec.Struct, frozen=True):
    room: int
    text: str


@pytest.fixture
def broker(server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    made = new_broker(
        "streams",
        server.url,
        middleware=stack(Settings.load({})),
        heartbeat_timeout=LEASE_MS,
    )
    assert isinstance(made, StreamsBroker)
    return made


@pytest.fixture
def stream(namespace: str) -> str:
    """A stream of the application's, whose keys are not ours."""
    return f"{STREAM}:{namespace}"


@pytest.fixture
def read(broker: StreamsBroker, start_worker: StartWorker) -> Callable[[], Worker]:
    """Start a worker process's intake, and nobody who would run the messages."""
    return lambda: start_worker(broker, queues={"another"}, threads=1)


@pytest.fixture
def commands(broker: StreamsBroker) -> IntakeCommands:
    return made(IntakeCommands, broker)


C = TypeVar("C", bound=IntakeCommands)


def made(kind: type[C], broker: StreamsBroker) -> C:
    """The commands as a worker has them."""
    client = derive(broker.client, socket_timeout=5.0)
    return kind(client, broker.namespace, broker.commands.keys)


def post(broker: StreamsBroker, stream: str, *texts: str, room: object = 1) -> list[str]:
    client: Any = broker.client
    return [client.xadd(stream, {"room": str(room), "text": text}).decode() for text in texts]


def messages(broker: StreamsBroker, queue: str = QUEUE) -> list[dict[str, Any]]:
    client: Any = broker.client
    found = []
    for _, fields in client.xrange(broker.commands.keys(queue).ready[0]):
        options = msgspec.json.decode(fields[b"options"])
        (payload,) = msgspec.json.decode(fields[b"args"])
        found.append({"id": fields[b"id"].decode(), "payload": payload, **options})
    return found


def wait_for(broker: StreamsBroker, count: int, queue: str = QUEUE) -> list[dict[str, Any]]:
    found = eventually(
        lambda: messages(broker, queue), lambda got: len(got) >= count, what=f"{count} messages"
    )
    assert len({message["id"] for message in found}) == len(found) == count
    return found


def wait_until_acknowledged(broker: StreamsBroker, stream: str) -> None:
    eventually(
        lambda: [(info.lag, info.pending) for info in broker.inspector.intake.sources()],
        lambda found: found == [(0, 0)],
        what="acknowledgement",
    )


def listen(broker: StreamsBroker, *streams: str, name: str = "notify", **options: Any) -> Any:
    @on_event(*streams, **{"payload": Posted, **options})
    @dramatiq.actor(queue_name=QUEUE, actor_name=name, broker=broker)
    def notify(posted: Any) -> None: ...

    return notify


def test_every_event_becomes_a_message_and_the_stream_stays(
    broker: StreamsBroker, stream: str, read: Callable[[], Worker]
) -> None:
    listen(broker, stream)
    ids = post(broker, stream, "before", room="7")
    read()
    ids += post(broker, stream, "after", room="7")
    found = wait_for(broker, 2)
    assert [message["payload"] for message in found] == [
        {"room": 7, "text": "before"},
        {"room": 7, "text": "after"},
    ]
    assert [message["event_id"] for message in found] == ids
    assert {message["event_stream"] for message in found} == {stream}
    wait_until_acknowledged(broker, stream)
    assert broker.client.xlen(stream) == 2
    k = broker.commands.keys(QUEUE)
    assert not broker.client.exists(k.taken(f"{stream}:headrace"))


def test_the_actor_gets_its_payload(
    broker: StreamsBroker, stream: str, start_worker: StartWorker
) -> None:
    got: list[Any] = []

    @on_event(stream)
    @dramatiq.actor(queue_name=QUEUE, broker=broker)
    def notify(fields: dict[str, str]) -> None:
        got.append(fields)

    start_worker(broker)
    post(broker, stream, "héllo")
    eventually(lambda: got, bool, what="the job")
    assert got == [{"room": "1", "text": "héllo"}]


def test_actors_of_one_group_each_get_what_their_filters_let_through(
    broker: StreamsBroker, stream: str, read: Callable[[], Worker]
) -> None:
    listen(broker, stream, name="loud", where=lambda posted: posted.text.isupper())
    listen(broker, stream, name="all")
    listen(broker, stream, name="others", group="another", where=lambda posted: posted.room == 1)
    post(broker, stream, "hello", "HELLO")
    read()
    texts = sorted(message["payload"]["text"] for message in wait_for(broker, 5))
    assert texts == ["HELLO"] * 3 + ["hello"] * 2


def test_a_field_of_json_is_the_payload(
    broker: StreamsBroker, stream: str, read: Callable[[], Worker]
) -> None:
    listen(broker, stream, json_field="data")
    broker.client.xadd(stream, {"kind": "posted", "data": '{"room":3,"text":"x"}'})
    read()
    assert wait_for(broker, 1)[0]["payload"] == {"room": 3, "text": "x"}


def test_several_streams(broker: StreamsBroker, stream: str, read: Callable[[], Worker]) -> None:
    listen(broker, f"{stream}:a", f"{stream}:b")
    read()
    post(broker, f"{stream}:a", "a")
    post(broker, f"{stream}:b", "b")
    assert {message["event_stream"] for message in wait_for(broker, 2)} == {
        f"{stream}:a",
        f"{stream}:b",
    }
    assert len(broker.inspector.intake.sources()) == 2


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("0", [1_000, 2_000, 3_000]),
        ("1000-0", [2_000, 3_000]),
        (2_000, [2_000, 3_000]),
        (datetime.fromisoformat("1970-01-01T00:00:02+00:00"), [2_000, 3_000]),
        ("$", []),
    ],
)
def test_a_new_group_begins_where_it_is_told(
    broker: StreamsBroker, stream: str, read: Callable[[], Worker], start: Any, expected: list[int]
) -> None:
    for at in (1_000, 2_000, 3_000):
        broker.client.xadd(stream, {"room": "1", "text": ""}, id=f"{at}-0")
    listen(broker, stream, start=start)
    read()
    eventually(broker.inspector.intake.sources, bool, what="the group")
    last = post(broker, stream, "next")
    found = [message["event_id"] for message in wait_for(broker, len(expected) + 1)]
    assert found == [*(f"{at}-0" for at in expected), *last]


def test_what_does_not_fit_is_set_aside_with_the_reason(
    broker: StreamsBroker,
    stream: str,
    read: Callable[[], Worker],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def picky(posted: Posted) -> bool:
        if posted.room == 13:
            raise RuntimeError("no such room")
        return True

    listen(broker, stream, where=picky)
    post(broker, stream, "no number", room="first")
    broker.client.xadd(stream, {"room": "1", "text": b"\xff"})
    broker.client.xadd(stream, {"text": "no room"})
    post(broker, stream, "no room", room=13)
    post(broker, stream, "fine")
    read()
    assert wait_for(broker, 1)[0]["payload"]["text"] == "fine"
    wait_until_acknowledged(broker, stream)
    asides = broker.inspector.intake.aside()
    reasons = [aside.reason for aside in reversed(asides)]
    for reason, expected in zip(
        reasons, ("Expected `int`", "UnicodeDecodeError", "`room`", "no such room"), strict=True
    ):
        assert expected in reason
    assert asides[-1].fields == {b"room": b"first", b"text": b"no number"}
    assert asides[-2].fields[b"text"] == b"\xff"
    assert asides[0].actor == "notify"
    assert "is set aside" in caplog.text
    assert broker.inspector.intake.aside(1, 2) == asides[1:3]


def test_a_message_that_its_queue_refuses_keeps_no_other_one_back(
    broker: StreamsBroker, stream: str, read: Callable[[], Worker]
) -> None:
    broker.max_message_bytes = 2_000
    listen(broker, stream)
    post(broker, stream, "one", "x" * 3_000, "two")
    read()
    assert [message["payload"]["text"] for message in wait_for(broker, 2)] == ["one", "two"]
    wait_until_acknowledged(broker, stream)
    (aside,) = broker.inspector.intake.aside()
    assert "MessageTooLarge" in aside.reason


def test_intake_stops_while_too_many_messages_wait(
    broker: StreamsBroker, stream: str, read: Callable[[], Worker]
) -> None:
    notify = listen(broker, stream, most_waiting=3)
    for _ in range(3):
        notify.send({})
    post(broker, stream, "later")
    read()
    (info,) = eventually(broker.inspector.intake.sources, bool, what="the group")
    with pytest.raises(AssertionError):
        eventually(lambda: len(messages(broker)), lambda n: n != 3, timeout_s=QUIET_S)
    assert (info.lag, info.pending) == (1, 0)
    broker.flush(QUEUE)
    assert wait_for(broker, 1)[0]["payload"]["text"] == "later"


def test_a_bounded_queue_bounds_the_intake(
    server: EmbeddedValkey,
    new_broker: NewBroker,
    stream: str,
    start_worker: StartWorker,
) -> None:
    broker = new_broker(
        "streams",
        server.url,
        middleware=[EventIntake()],
        heartbeat_timeout=LEASE_MS,
        depths={QUEUE: QueueDepth(2)},
    )
    assert isinstance(broker, StreamsBroker)
    notify = listen(broker, stream)
    notify.send({})
    notify.send({})
    post(broker, stream, "later")
    start_worker(broker, queues={"another"}, threads=1)
    eventually(broker.inspector.intake.sources, bool, what="the group")
    with pytest.raises(AssertionError):
        eventually(lambda: broker.inspector.queue(QUEUE).ready, lambda n: n != 2, timeout_s=QUIET_S)
    broker.flush(QUEUE)
    assert wait_for(broker, 1)[0]["payload"]["text"] == "later"


def test_events_wait_in_their_stream_while_the_queue_is_closed(
    broker: StreamsBroker,
    stream: str,
    read: Callable[[], Worker],
    caplog: pytest.LogCaptureFixture,
) -> None:
    listen(broker, stream)
    post(broker, stream, "one", "two")
    broker.commands.register(QUEUE)
    broker.inspector.close(QUEUE)
    read()

    def warnings() -> int:
        return sum("is closed" in record.getMessage() for record in caplog.records)

    eventually(warnings, bool, what="the warning")
    with pytest.raises(AssertionError):  # it comes once, over several looks at the queue
        eventually(warnings, lambda n: n != 1, timeout_s=2.5)
    (info,) = broker.inspector.intake.sources()
    assert (info.lag, info.pending) == (2, 0)
    broker.inspector.open(QUEUE)
    assert [message["payload"]["text"] for message in wait_for(broker, 2)] == ["one", "two"]
    assert broker.inspector.intake.aside() == []


def test_events_in_hand_when_the_queue_closes_use_up_no_deliveries(
    broker: StreamsBroker,
    server: EmbeddedValkey,
    new_broker: NewBroker,
    stream: str,
    start_worker: StartWorker,
) -> None:
    another = new_broker(
        "streams", server.url, middleware=[EventIntake()], heartbeat_timeout=LEASE_MS
    )
    assert isinstance(another, StreamsBroker)
    for each in (broker, another):
        listen(each, stream)
        start_worker(each, queues={"another"}, threads=1)
    client: Any = broker.client
    post(broker, stream, "open")
    wait_for(broker, 1)
    wait_until_acknowledged(broker, stream)
    broker.inspector.close(QUEUE)
    post(broker, stream, "closed")

    def deliveries() -> list[int]:
        rows = client.xpending_range(stream, "headrace", "-", "+", 10)
        return [row["times_delivered"] for row in rows]

    eventually(deliveries, lambda counts: counts == [1], what="the event in hand")
    with pytest.raises(AssertionError):  # the lease runs out, and none of them takes it over
        eventually(deliveries, lambda counts: counts != [1], timeout_s=4 * LEASE_MS / 1000)
    broker.inspector.open(QUEUE)
    assert wait_for(broker, 2)[1]["payload"]["text"] == "closed"
    assert broker.inspector.intake.aside() == []


class Interrupted(IntakeCommands):
    """Its acknowledgements fail until they are permitted."""

    permitted = False

    def acknowledge(self, source: Source, event_ids: Sequence[str]) -> None:
        if not self.permitted:
            raise ConnectionClosed(OSError("reset by the test"))
        super().acknowledge(source, event_ids)


@pytest.fixture
def interrupted(broker: StreamsBroker) -> Interrupted:
    return made(Interrupted, broker)


@pytest.fixture
def reader(
    broker: StreamsBroker, interrupted: Interrupted, stream: str
) -> Iterator[Callable[[], Reader]]:
    started: list[Reader] = []

    def start() -> Reader:
        notify = broker.actors.get("notify") or listen(broker, stream)
        (subscription,) = notify.options["events"]
        made = Reader(broker, interrupted, subscription.source, [Subscriber(notify, subscription)])
        made.start()
        started.append(made)
        return made

    yield start
    for each in started:
        each.stop()
        each.join(5)


def test_a_crash_between_enqueue_and_acknowledgement_doubles_nothing(
    broker: StreamsBroker, stream: str, interrupted: Interrupted, reader: Callable[[], Reader]
) -> None:
    ids = post(broker, stream, "once")
    reader()
    wait_for(broker, 1)
    # Its job ran long ago, and no record says so any more.
    (message,) = messages(broker)
    broker.client.delete(broker.commands.keys(QUEUE).job_prefix + message["id"])
    client: Any = broker.client

    def deliveries() -> int:
        rows = client.xpending_range(stream, "headrace", "-", "+", 1)
        return int(rows[0]["times_delivered"])

    eventually(deliveries, lambda count: count >= 3, what="a repeat")
    assert [found["event_id"] for found in messages(broker)] == ids
    interrupted.permitted = True
    wait_until_acknowledged(broker, stream)
    assert len(messages(broker)) == 1
    taken = broker.commands.keys(QUEUE).taken(f"{stream}:headrace")
    eventually(lambda: broker.client.exists(taken), lambda there: not there, what="forgetting")


def test_events_of_a_vanished_consumer_are_taken_over(
    broker: StreamsBroker, stream: str, commands: IntakeCommands, read: Callable[[], Worker]
) -> None:
    listen(broker, stream)
    source = Source(stream, "headrace")
    commands.create(source, "0")
    post(broker, stream, "one", "two")
    held = commands.read(source, "vanished", 10, 10, LEASE_MS)
    assert len(held.events) == 2
    read()
    assert len(wait_for(broker, 2)) == 2
    wait_until_acknowledged(broker, stream)
    client: Any = broker.client
    eventually(
        lambda: [row["name"] for row in client.xinfo_consumers(stream, "headrace")],
        lambda names: b"vanished" not in names,
        what="its consumer's end",
    )


def test_an_event_that_ends_whoever_takes_it_is_set_aside(
    broker: StreamsBroker, stream: str, commands: IntakeCommands, read: Callable[[], Worker]
) -> None:
    listen(broker, stream)
    source = Source(stream, "headrace")
    commands.create(source, "0")
    (killer,) = post(broker, stream, "killer")
    commands.read(source, "victim", 1, 10, LEASE_MS)
    for _ in range(broker.max_deliveries - 1):
        commands.read_own(source, "victim", 1, LEASE_MS)
    post(broker, stream, "innocent")
    read()
    assert wait_for(broker, 1)[0]["payload"]["text"] == "innocent"
    (aside,) = eventually(broker.inspector.intake.aside, bool, what="setting aside")
    assert (aside.event_id, aside.reason.split(":")[0]) == (killer, "max_deliveries")


def test_a_consumer_that_holds_events_is_not_reaped(
    broker: StreamsBroker, stream: str, commands: IntakeCommands
) -> None:
    source = Source(stream, "headrace")
    commands.create(source, "0")
    (event_id,) = post(broker, stream, "held")
    commands.read(source, "silent", 1, 10, LEASE_MS)
    assert commands.reap(source, 0) == 0
    assert [each.id for each in commands.stalled(source, 0, 10)] == [event_id]
    commands.acknowledge(source, [event_id])
    assert commands.reap(source, 0) == 1


def test_who_held_events_too_long_is_fenced_off(
    broker: StreamsBroker, stream: str, commands: IntakeCommands
) -> None:
    notify = listen(broker, stream)
    source = Source(stream, "headrace")
    commands.create(source, "0")
    post(broker, stream, "one")
    held = commands.read(source, "slow", 1, 10, lease_ms=2)
    message = notify.options["events"][0].message(notify, held.events[0])

    def write(deadline_ms: int) -> list[int | None]:
        waiting: list[int | None] = []
        broker.producer.hand_over(
            [message],
            lambda new: waiting.append(
                commands.take(QUEUE, str(source), deadline_ms, "t", [("n", new[0])])
            ),
        )
        return waiting

    eventually(lambda: write(held.deadline_ms - 10_000), lambda found: found == [None])
    assert messages(broker) == []
    assert write(held.deadline_ms + 60_000) == [1]


def test_a_name_that_a_dead_process_left_is_forgotten_when_its_event_is_acknowledged(
    broker: StreamsBroker, stream: str, commands: IntakeCommands
) -> None:
    listen(broker, stream)
    source = Source(stream, "headrace")
    commands.create(source, "0")
    first, second = post(broker, stream, "acknowledged", "held")
    commands.read(source, "dead", 2, 10, LEASE_MS)
    taken = broker.commands.keys(QUEUE).taken(str(source))
    broker.client.zadd(taken, {f"{first} notify": 1, f"{second} notify": 2})
    commands.acknowledge(source, [first])
    assert commands.forgotten(QUEUE, source, 0, 10) == 2
    assert broker.client.zrange(taken, 0, -1) == [f"{second} notify".encode()]


@pytest.mark.faults
@pytest.mark.parametrize("how", ["destroy", "delete", "flush"])
def test_30_what_is_lost_under_a_blocked_reader_is_made_again(
    own_server: Callable[..., EmbeddedValkey],
    new_broker: NewBroker,
    start_worker: StartWorker,
    how: str,
) -> None:
    broker = new_broker(
        "streams", own_server().url, middleware=[EventIntake()], heartbeat_timeout=LEASE_MS
    )
    assert isinstance(broker, StreamsBroker)
    listen(broker, STREAM)
    start_worker(broker, queues={"another"}, threads=1)
    post(broker, STREAM, "before")
    wait_for(broker, 1)
    wait_until_acknowledged(broker, STREAM)
    if how == "destroy":
        broker.client.xgroup_destroy(STREAM, "headrace")
    elif how == "delete":
        broker.client.delete(STREAM)
    else:
        broker.client.flushall()
    (last,) = post(broker, STREAM, "after")
    found = eventually(
        lambda: [message["event_id"] for message in messages(broker)],
        lambda ids: last in ids,
        timeout_s=2.0,
        what="the event after it",
    )
    assert len(found) == len(set(found)) <= 2


@pytest.mark.faults
def test_29_scripts_that_are_flushed_are_loaded_again(
    own_server: Callable[..., EmbeddedValkey], new_broker: NewBroker, start_worker: StartWorker
) -> None:
    broker = new_broker(
        "streams", own_server().url, middleware=[EventIntake()], heartbeat_timeout=LEASE_MS
    )
    assert isinstance(broker, StreamsBroker)
    listen(broker, STREAM)
    start_worker(broker, queues={"another"}, threads=1)
    for number in range(20):
        broker.client.script_flush()
        post(broker, STREAM, f"text {number}")
    wait_for(broker, 20)


def test_a_range_is_replayed_once_a_name(
    broker: StreamsBroker, stream: str, read: Callable[[], Worker]
) -> None:
    notify = listen(broker, stream, where=lambda posted: posted.text != "skip")
    ids = post(broker, stream, "a", "b", "skip", "c", "d")
    read()
    wait_for(broker, 4)
    broker.flush(QUEUE)
    assert replay(notify, stream, name="outage", start=ids[1], end=ids[3]) == 2
    assert replay(notify, stream, name="outage", start=ids[1], end=ids[3]) == 0
    assert [message["event_id"] for message in wait_for(broker, 2)] == [ids[1], ids[3]]
    assert replay(notify, stream, name="outage", start=ids[1]) == 1  # it goes on
    assert replay(notify, stream, name="once more", start=ids[4]) == 1
    assert len(wait_for(broker, 4)) == 4
    assert {info.pending for info in broker.inspector.intake.sources()} == {0}


def test_a_replay_into_a_closed_queue_is_refused_and_leaves_no_event_out(
    broker: StreamsBroker, stream: str
) -> None:
    notify = listen(broker, stream)
    post(broker, stream, "a", "b")
    broker.commands.register(QUEUE)
    broker.inspector.close(QUEUE)
    with pytest.raises(QueueClosed):
        replay(notify, stream, name="outage")
    assert messages(broker) == []
    broker.inspector.open(QUEUE)
    assert replay(notify, stream, name="outage") == 2
    assert len(wait_for(broker, 2)) == 2


def test_lag_is_what_nobody_was_given_and_how_old_it_is(
    broker: StreamsBroker, stream: str, commands: IntakeCommands
) -> None:
    source = Source(stream, "headrace")
    commands.create(source, "0")
    client: Any = broker.client
    for at in (1_000, 2_000):
        client.xadd(stream, {"room": "1", "text": ""}, id=f"{at}-0")
    (info,) = broker.inspector.intake.sources()
    assert (info.lag, info.pending) == (2, 0)
    now_s, _ = client.time()
    assert info.oldest_age_ms is not None
    assert abs(info.oldest_age_ms - (now_s * 1000 - 1_000)) < 5_000
    commands.read(source, "c", 2, 10, LEASE_MS)
    (info,) = broker.inspector.intake.sources()
    assert (info.lag, info.pending, info.oldest_age_ms) == (0, 2, None)
    assert info.acknowledged_to == f"999-{2**64 - 1}"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"group": ""}, "group"),
        ({"start": "yesterday"}, "start"),
        ({"start": -1}, "start"),
        ({"start": datetime(2026, 1, 1)}, "start"),  # noqa: DTZ001 - that is the point
        ({"most_waiting": 0}, "most_waiting"),
        ({"json_field": ""}, "json_field"),
    ],
)
def test_a_wrong_parameter_is_named(
    broker: StreamsBroker, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidOption) as caught:
        listen(broker, STREAM, **options)
    assert caught.value.field == field


def test_a_stream_is_subscribed_to_once_a_group(broker: StreamsBroker) -> None:
    with pytest.raises(InvalidOption, match="has it already"):
        listen(broker, STREAM, STREAM)
    with pytest.raises(InvalidOption, match="one at least"):
        listen(broker, name="nothing")


def test_ids_differ_by_stream_group_event_and_actor(broker: StreamsBroker) -> None:
    events = [Event(f"{n}-0", {b"room": b"1", b"text": b""}) for n in (1, 2)]
    ids = []
    for name, group in (("a", "g"), ("b", "g"), ("c", "h")):
        actor = listen(broker, "s:1", "s:2", name=name, group=group)
        for subscription in actor.options["events"]:
            ids += [subscription.message(actor, event).message_id for event in events]
    assert len(set(ids)) == len(ids) == 12
