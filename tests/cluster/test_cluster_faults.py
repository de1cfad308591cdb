"""Rows 37 and 38: a cluster that loses a master, promotes a replica, or moves a slot."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import dramatiq
import pytest
from dramatiq.errors import BrokerConnectionError
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from tests.cluster.clusters import Cluster
from tests.cluster.conftest import ClusterBroker
from tests.conftest import StartWorker
from tests.contract.recording import Seen
from tests.servers import ServerKind
from tests.waiting import PATIENCE_S, eventually, wait_for

pytestmark = pytest.mark.faults

TIMEOUT_MS = int(PATIENCE_S * 1000)

NewCluster = Callable[..., Cluster]


@pytest.fixture
def new_cluster(server_kind: ServerKind, tmp_path: Path) -> Iterator[NewCluster]:
    """Start a cluster that only this test uses, so it may hurt it: `new_cluster(replicas=1)`."""
    started: list[Cluster] = []

    def start(**options: object) -> Cluster:
        made = Cluster(server_kind, tmp_path / "cluster", **options)  # type: ignore[arg-type]
        started.append(made.__enter__())
        return made

    yield start
    for made in started:
        made.__exit__(None, None, None)


def key_of(streams: StreamsBroker, queue: str) -> str:
    """A key of the queue, for its slot."""
    return f"{{{streams.namespace}:{queue}}}:wake"


def is_empty(streams: StreamsBroker, queue: str) -> bool:
    """Whether nothing of the queue is left, dead letters included."""
    info = streams.inspector.queue(queue)
    return (info.ready, info.scheduled, info.in_flight, info.dead) == (0, 0, 0, 0)


@pytest.mark.slow
def test_37_the_queues_of_other_nodes_go_on_while_a_master_is_away(
    new_cluster: NewCluster,
    new_streams: ClusterBroker,
    start_worker: StartWorker,
) -> None:
    cluster = new_cluster(appendonly=True, node_timeout_ms=1000)
    client = cluster.client(retry=Retry(NoBackoff(), 1))
    streams = new_streams(client)
    seen = Seen()
    may_end = threading.Event()
    # One queue on each node.
    by_node: dict[int, str] = {}
    for number in range(100):
        port = client.get_node_from_key(f"{{{streams.namespace}:queue-{number}}}").port
        by_node.setdefault(port, f"queue-{number}")
    hurt, *others = by_node.values()

    def job(queue: str, label: str) -> None:
        if label == "hold":
            seen.add((queue, "started"))
            wait_for(may_end, "the permission to end")
        seen.add((queue, label))

    actors = {
        queue: dramatiq.actor(actor_name=f"job_{queue}", queue_name=queue, broker=streams)(job)
        for queue in by_node.values()
    }
    start_worker(streams, threads=4)
    actors[hurt].send(hurt, "hold")
    assert seen.next() == (hurt, "started")
    owner = cluster.owner(key_of(streams, hurt))
    owner.kill()
    may_end.set()
    assert seen.next() == (hurt, "hold")  # its settlement can't be written now
    for round_number in range(3):
        for queue in others:
            sent_at = time.monotonic()
            actors[queue].send(queue, f"round {round_number}")
            assert seen.next() == (queue, f"round {round_number}")
            assert time.monotonic() - sent_at < 2
    for queue in others:
        eventually(lambda queue=queue: is_empty(streams, queue), bool, what="settled elsewhere")  # type: ignore[misc]
    with pytest.raises(BrokerConnectionError):
        actors[hurt].send(hurt, "refused")
    owner.start()
    eventually(lambda: tried(actors[hurt].message(hurt, "after"), streams), bool)
    assert seen.next() == (hurt, "after")
    eventually(lambda: is_empty(streams, hurt), bool, what="the held settlement")
    assert seen.nothing_more(0.3)


def tried(
    message: dramatiq.Message[None], streams: StreamsBroker, delay: int | None = None
) -> bool:
    """Whether the cluster took the message this time."""
    try:
        streams.enqueue(message, delay=delay)
    except BrokerConnectionError:
        return False
    return True


@pytest.mark.slow
def test_37_a_promoted_replica_has_what_was_acknowledged_and_replicated(
    new_cluster: NewCluster,
    new_streams: ClusterBroker,
    start_worker: StartWorker,
) -> None:
    cluster = new_cluster(replicas=1, node_timeout_ms=1000)
    client = cluster.client()
    streams = new_streams(client)
    seen = Seen()
    may_end = threading.Event()

    @dramatiq.actor(queue_name="work", broker=streams)
    def job(label: str) -> None:
        if label == "hold":
            wait_for(may_end, "the permission to end")
        seen.add(label)

    start_worker(streams, threads=2)
    job.send("first")
    assert seen.next() == "first"
    for _ in range(2):
        job.send("hold")
    labels = [str(number) for number in range(50)]
    streams.enqueue_many([job.message(label) for label in labels])
    job.send_with_options(args=("delayed",), delay=1500)
    owner = cluster.owner(key_of(streams, "work"))
    with cluster.to(owner) as master:
        eventually(lambda: int(master.execute_command("WAIT", 1, 1000)), lambda acks: acks == 1)
    owner.kill()
    may_end.set()
    expected = sorted([*labels, "delayed", "hold", "hold"])
    # Both jobs were in flight, and both their ends are written on the promoted replica.
    assert sorted(seen.take(len(expected))) == expected
    streams.join("work", timeout=TIMEOUT_MS)
    assert cluster.owner(key_of(streams, "work")) is cluster.replica_of(owner)
    eventually(lambda: is_empty(streams, "work"), bool, what="the end of all deliveries")
    assert seen.nothing_more(0.1)


Move = Callable[[Cluster, str, EmbeddedValkey, Callable[[], bool]], None]


def key_by_key(
    cluster: Cluster, key: str, target: EmbeddedValkey, try_to_send: Callable[[], bool]
) -> None:
    sent: list[bool] = []
    cluster.migrate(key, target, lambda: sent.append(try_to_send()))
    assert sent == [False]  # half of a queue's keys is no queue: a typed error, nothing written


def at_once(
    cluster: Cluster, key: str, target: EmbeddedValkey, try_to_send: Callable[[], bool]
) -> None:
    if cluster.kind == "redis":
        pytest.skip("Valkey 9 alone moves slots in one step")
    cluster.migrate_at_once(key, target)


@pytest.mark.parametrize("move", [key_by_key, at_once])
def test_38_a_slot_moves_under_load_and_every_job_runs_once(
    cluster: Cluster,
    streams: StreamsBroker,
    start_worker: StartWorker,
    caplog: pytest.LogCaptureFixture,
    move: Move,
) -> None:
    runs: Counter[int] = Counter()
    failed_once: set[int] = set()

    @dramatiq.actor(queue_name="work", broker=streams, min_backoff=1, max_backoff=20)
    def job(number: int) -> None:
        if number % 10 == 0 and number not in failed_once:
            failed_once.add(number)
            raise RuntimeError("once")
        runs[number] += 1

    stop = threading.Event()
    sent: list[int] = []

    def produce() -> None:
        while not stop.wait(0.002):
            number = len(sent)
            delay = 5 if number % 7 == 0 else None
            message = job.message(number)
            while not tried(message, streams, delay):
                pass  # redis-py waits before it gives up
            sent.append(number)

    start_worker(streams, threads=4)
    producer = threading.Thread(target=produce)
    producer.start()
    key = key_of(streams, "work")
    try:
        eventually(lambda: len(sent), lambda count: count > 50)
        for target in [n for n in cluster.nodes if n is not cluster.owner(key)]:
            move(cluster, key, target, lambda: tried(job.message(-1), streams))
            assert cluster.owner(key) is target
            so_far = len(sent)
            eventually(lambda so_far=so_far: len(sent) - so_far, lambda more: more > 50)  # type: ignore[misc]
    finally:
        stop.set()
        producer.join()
    streams.join("work", timeout=TIMEOUT_MS)
    assert runs == Counter(sent)
    assert is_empty(streams, "work")
    wrong = [r.getMessage() for r in caplog.records if "CROSSSLOT" in r.getMessage()]
    assert not wrong
