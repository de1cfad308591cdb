"""A master found by a sentinel, and row 35: the sentinel promotes its replica."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dramatiq
import pytest
from dramatiq.errors import BrokerConnectionError

from tests.cluster.conftest import ClusterBroker
from tests.cluster.sentinels import SERVICE, Watched
from tests.conftest import StartWorker
from tests.contract.recording import Seen
from tests.servers import ServerKind
from tests.waiting import PATIENCE_S, eventually, wait_for

TIMEOUT_MS = int(PATIENCE_S * 1000)


@pytest.fixture
def watched(server_kind: ServerKind, tmp_path: Path) -> Iterator[Watched]:
    with Watched(server_kind, tmp_path, password="secret") as made:
        yield made


@pytest.mark.faults
def test_35_jobs_go_on_with_the_promoted_replica(
    watched: Watched,
    new_streams: ClusterBroker,
    start_worker: StartWorker,
) -> None:
    streams = new_streams(watched.manager().master_for(SERVICE))
    seen = Seen()
    may_end = threading.Event()

    @dramatiq.actor(queue_name="work", broker=streams)
    def job(label: str) -> None:
        if label == "hold":
            wait_for(may_end, "the permission to end")
        seen.add(label)

    @dramatiq.actor(queue_name="idle", broker=streams)
    def idle(label: str) -> None:
        seen.add(label)

    start_worker(streams, threads=2)
    job.send("first")
    assert seen.next() == "first"
    for _ in range(2):
        job.send("hold")
    labels = [str(number) for number in range(50)]
    streams.enqueue_many([job.message(label) for label in labels])
    job.send_with_options(args=("delayed",), delay=1000)
    with watched.to(watched.master) as master:
        eventually(lambda: int(master.execute_command("WAIT", 1, 1000)), lambda acks: acks == 1)
    watched.master.kill()
    began_at = time.monotonic()
    may_end.set()
    expected = sorted([*labels, "delayed", "hold", "hold"])
    assert sorted(seen.take(len(expected))) == expected

    def sent() -> bool:
        try:
            idle.send("after")
        except BrokerConnectionError:
            return False
        return True

    eventually(sent, bool, what="a master that takes a message")
    assert seen.next() == "after"
    assert time.monotonic() - began_at < 10
    streams.join("work", timeout=TIMEOUT_MS)
    with watched.to(watched.replica) as promoted:
        assert promoted.info("replication")["role"] == "master"
    eventually(lambda: streams.inspector.queue("work").in_flight, lambda count: count == 0)
    assert streams.inspector.queue("work").dead == 0
    assert seen.nothing_more(0.1)
