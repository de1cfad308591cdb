"""Drain, export, import: out of a system without losing or repeating a job."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Message

from broker import QueueClosed, StreamsBroker
from broker.cli.exits import Exit
from broker.embedded import EmbeddedValkey
from broker.outcome import Bury
from broker.settlement import Settlement
from middleware.encryption import Encryption
from middleware.keyring import KeyRing, new_key
from tests.cli.conftest import Headrace
from tests.conftest import NewBroker, StartWorker
from tests.waiting import wait_for


def _message(number: Any, **options: Any) -> Message[Any]:
    return Message("mail", "deliver", (number,), {}, options)


def test_a_drain_refuses_producers_lets_work_finish_and_says_what_is_left(
    headrace: Headrace, broker: StreamsBroker, start_worker: StartWorker
) -> None:
    begun, followed = threading.Event(), threading.Event()

    @dramatiq.actor(queue_name="mail")
    def deliver(number: int) -> None:
        if number == 1:
            begun.set()
            broker.enqueue(_message(2))  # what a job sends is work that is to finish
        else:
            followed.set()

    broker.enqueue(_message(1))
    broker.enqueue(_message(3), delay=3_600_000)
    start_worker(broker)
    wait_for(begun, "the job")
    ran = headrace("drain", "--json")
    (left,) = ran.json
    assert (ran.status, left["ready"], left["in_flight"], left["scheduled"]) == (0, 0, 0, 1)
    assert followed.is_set()
    with pytest.raises(QueueClosed):
        broker.enqueue(_message(4))
    assert "closed" in headrace("queues", "ls").out
    assert headrace("queues", "open", "mail").out == "opened\n"
    broker.enqueue(_message(4))


def test_a_drain_that_does_not_end_in_time_says_so(
    headrace: Headrace, broker: StreamsBroker
) -> None:
    broker.enqueue(_message(1))
    ran = headrace("drain", "mail", "--timeout", "10")
    assert ran.status == Exit.TIMED_OUT
    assert "mail" in ran.out


def test_a_job_that_waits_in_a_closed_queue_is_begun(
    headrace: Headrace, broker: StreamsBroker, start_worker: StartWorker
) -> None:
    done = threading.Event()

    @dramatiq.actor(queue_name="mail")
    def deliver(number: int) -> None:
        done.set()

    start_worker(broker)
    broker.enqueue(_message(1), delay=200)
    headrace("queues", "close", "mail")
    wait_for(done, "the scheduled job")


def _fill(broker: StreamsBroker) -> None:
    """Two ready on two levels, one scheduled, one dead."""
    broker.enqueue(_message("naïve ☃"))
    broker.enqueue(_message("urgent", broker_priority=3))
    broker.enqueue(_message("once", deduplication_key="k"), delay=3_600_000)
    _bury(broker)


def _bury(broker: StreamsBroker) -> None:
    broker.enqueue(Message("dying", "deliver", ("dead",), {}, {}))
    (handed,) = broker.commands.fetch(
        "dying", "tester", 1, lowest_first=False, suspects=1, signals=()
    ).deliveries
    id = handed.field(b"id").decode()
    broker.commands.settle("dying", [Settlement(handed.lease, id, "", Bury("rejected", "no"))])


def _counts(broker: StreamsBroker) -> list[tuple[str, int, int, int]]:
    found = map(broker.inspector.queue, broker.inspector.queues())
    return [(i.name, i.ready, i.scheduled, i.dead) for i in found]


def test_what_is_left_goes_to_a_file_and_comes_back_as_it_was(
    headrace: Headrace, broker: StreamsBroker, client: redis.Redis, tmp_path: Path
) -> None:
    _fill(broker)
    before = _counts(broker)
    records = {
        state: [r.id for r in broker.jobs.list("mail", state).records]
        for state in ("queued", "scheduled")
    }
    due = broker.jobs.list("mail", "scheduled").records[0].due_at
    (letter,) = broker.inspector.dead("dying")
    file = tmp_path / "left.jsonl"
    assert headrace("export", str(file), "--json").json == {"exported": 4}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert _counts(broker) == before
    for name in client.scan_iter(match=f"{{{broker.namespace}*"):
        client.delete(name)
    for _ in range(2):  # the second changes nothing
        assert headrace("import", str(file), "--json").json == {"imported": 4}
        assert _counts(broker) == before
    for state, ids in records.items():
        assert [r.id for r in broker.jobs.list("mail", state).records] == ids
    again = broker.jobs.list("mail", "scheduled").records[0].due_at
    assert due is not None
    assert again is not None
    assert abs(again - due) < 1_000
    assert broker.inspector.dead("dying") == [letter]
    first = broker.enqueue(_message("other", deduplication_key="k"))
    assert first.message_id == records["scheduled"][0]


def test_encrypted_messages_stay_so_and_run_where_they_belong_only(
    headrace: Headrace,
    server: EmbeddedValkey,
    new_broker: NewBroker,
    start_worker: StartWorker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = threading.Event()
    encryption = Encryption(KeyRing.from_text(f"k:{new_key()}"), default=True)
    broker = new_broker("streams", server.url, middleware=[encryption])
    assert isinstance(broker, StreamsBroker)

    @dramatiq.actor(queue_name="mail")
    def deliver(what: str) -> None:
        assert what == "canary-4711"
        seen.set()

    deliver.send("canary-4711")
    file = tmp_path / "left.jsonl"
    headrace("export", str(file))
    assert "canary" not in file.read_text()
    broker.inspector.purge("mail")
    assert headrace("import", str(file)).status == 0
    start_worker(broker)
    wait_for(seen, "the encrypted job")
    monkeypatch.setenv("QUEUE_PREFIX", "elsewhere")
    refused = headrace("import", str(file))
    assert refused.status == Exit.USAGE
    assert "bound to namespace" in refused.err


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: "{}\n" + text,
        lambda text: text[: len(text) // 2],
        lambda text: "\n".join(text.splitlines()[:-1]) + "\n",
        lambda text: text.replace('"version":1', '"version":9'),
        lambda text: text.replace('"place":"ready"', '"where":"ready"'),
        lambda text: "\n".join([text.splitlines()[0], *text.splitlines()[2:]]) + "\n",
    ],
)
def test_a_damaged_file_is_refused_and_nothing_imported(
    headrace: Headrace, broker: StreamsBroker, tmp_path: Path, damage: Any
) -> None:
    broker.enqueue_many(_message(number) for number in range(3))
    file = tmp_path / "left.jsonl"
    headrace("export", str(file))
    broker.inspector.purge("mail")
    file.write_text(damage(file.read_text()))
    ran = headrace("import", str(file))
    assert (ran.status, ran.out) == (Exit.USAGE, "")
    assert broker.inspector.size("mail") == 0


def test_an_export_does_not_replace_a_file_unasked(
    headrace: Headrace, broker: StreamsBroker, tmp_path: Path
) -> None:
    file = tmp_path / "left.jsonl"
    file.write_text("mine")
    assert headrace("export", str(file)).status == Exit.USAGE
    assert file.read_text() == "mine"
    assert headrace("export", str(file), "--yes").status == 0
    assert json.loads(file.read_text().splitlines()[-1]) == {"end": 0}
    assert list(tmp_path.iterdir()) == [file]
