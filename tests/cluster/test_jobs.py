"""Jobs on a cluster: queues on different nodes, one broker."""

# mypy: allow-untyped-calls
# Dramatiq has no types in its results.

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import dramatiq
import pytest
import redis
from dramatiq import Actor, Worker
from dramatiq.errors import QueueJoinTimeout
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from broker import Rate, StreamsBroker
from broker.commands import Commands
from broker.consumer_name import ConsumerName
from middleware.rate_limits import RateLimits
from tests.applications import Effects
from tests.cluster.clusters import Cluster
from tests.cluster.conftest import ClusterBroker, Queues, Source
from tests.conftest import StartWorker
from tests.contract.recording import Seen
from tests.processes import Launcher
from tests.waiting import PATIENCE_S, eventually, wait_for

R = TypeVar("R")

TIMEOUT_MS = int(PATIENCE_S * 1000)


def counts(streams: StreamsBroker, queue: str) -> tuple[int, int, int, int]:
    """Ready, scheduled, in flight, dead."""
    info = streams.inspector.queue(queue)
    return info.ready, info.scheduled, info.in_flight, info.dead


def declare(
    streams: StreamsBroker, function: Callable[..., R], queue: str, **options: Any
) -> Actor[..., R]:
    """An actor of this queue; the same function may be one of several queues."""
    name = f"{function.__name__}_{queue}"
    decorate = dramatiq.actor(actor_name=name, queue_name=queue, broker=streams, **options)
    made: Actor[..., R] = decorate(function)
    return made


def recorder(streams: StreamsBroker, queue: str, seen: Seen) -> Actor[..., None]:
    """An actor of this queue that records what it is given."""

    def record(label: object) -> None:
        seen.add((queue, label))

    return declare(streams, record, queue)


def test_jobs_of_queues_on_every_node_run_once(
    streams: StreamsBroker, queues: Queues, start_worker: StartWorker, client: redis.RedisCluster
) -> None:
    names, seen = queues(3), Seen()
    actors = [recorder(streams, queue, seen) for queue in names]
    assert len({client.get_node_from_key(f"{{{streams.namespace}:{q}}}").name for q in names}) == 3
    expected = []
    for actor in actors:
        actor.send("now")
        actor.send_with_options(args=("later",), delay=30)
        expected += [(actor.queue_name, "now"), (actor.queue_name, "later")]
    messages = [actor.message(number) for number in range(5) for actor in actors]
    sent = streams.enqueue_many(messages)
    assert [m.message_id for m in sent] == [m.message_id for m in messages]
    expected += [(m.queue_name, m.args[0]) for m in messages]
    assert streams.inspector.queues() == sorted(names)
    start_worker(streams, threads=4)
    assert sorted(seen.take(len(expected)), key=repr) == sorted(expected, key=repr)
    for queue in names:
        streams.join(queue, timeout=TIMEOUT_MS)
        eventually(lambda queue=queue: counts(streams, queue), lambda now: now == (0, 0, 0, 0))  # type: ignore[misc]
    assert seen.nothing_more(0.1)


def test_limits_by_key_hold_on_every_node(
    streams: StreamsBroker, queues: Queues, start_worker: StartWorker
) -> None:
    streams.add_middleware(RateLimits())
    names, seen = queues(3), Seen()

    def limited(label: int) -> None:
        seen.add(label)

    options = {"rate_key": "u1", "rate": Rate(50, per_ms=1_000)}
    options |= {"concurrency_key": "u1", "concurrency": 1}
    for queue in names:
        actor = declare(streams, limited, queue, **options)
        for number in range(3):
            actor.send(number)
    start_worker(streams, threads=3)
    expected = sorted([*range(3)] * len(names))
    assert sorted(seen.take(len(expected))) == expected
    for queue in names:
        streams.join(queue, timeout=TIMEOUT_MS)


def test_higher_priorities_come_first(streams: StreamsBroker, start_worker: StartWorker) -> None:
    seen = Seen()
    actor = recorder(streams, "letters", seen)
    for level in (0, 9, 4):
        actor.send_with_options(args=(level,), broker_priority=level)
    start_worker(streams, threads=1)
    assert [label for _, label in seen.take(3)] == [9, 4, 0]


def test_a_failing_job_is_retried_buried_and_redriven(
    streams: StreamsBroker, queues: Queues, start_worker: StartWorker
) -> None:
    seen, healed = Seen(), threading.Event()
    names = queues(1)

    def fail(queue: str) -> None:
        seen.add(queue)
        if not healed.is_set():
            raise LookupError(queue)

    for queue in names:
        declare(streams, fail, queue, max_retries=2, min_backoff=1, max_backoff=1).send(queue)
    start_worker(streams)
    assert sorted(seen.take(9)) == sorted(names * 3)
    for queue in names:
        eventually(lambda queue=queue: counts(streams, queue), lambda now: now == (0, 0, 0, 1))  # type: ignore[misc]
        (letter,) = streams.inspector.dead(queue)
        assert letter.error == f"LookupError: {queue}"
        assert letter.message is not None
    healed.set()
    assert [streams.inspector.redrive(queue) for queue in names] == [1, 1, 1]
    assert sorted(seen.take(3)) == sorted(names)
    for queue in names:
        eventually(lambda queue=queue: counts(streams, queue), lambda now: now == (0, 0, 0, 0))  # type: ignore[misc]


def test_a_paused_queue_starts_nothing_and_the_others_go_on(
    streams: StreamsBroker, queues: Queues, start_worker: StartWorker
) -> None:
    seen = Seen()
    paused, other, _ = (recorder(streams, queue, seen) for queue in queues(1))
    start_worker(streams)
    paused.send("before")
    assert seen.next() == (paused.queue_name, "before")
    assert streams.inspector.pause(paused.queue_name)
    assert streams.inspector.queue(paused.queue_name).paused
    paused.send("while")
    other.send("meanwhile")
    assert seen.next() == (other.queue_name, "meanwhile")
    assert seen.nothing_more(0.2)
    assert streams.inspector.resume(paused.queue_name)
    assert seen.next() == (paused.queue_name, "while")


def test_purging_and_flushing_leave_nothing(streams: StreamsBroker, queues: Queues) -> None:
    actors = [recorder(streams, queue, Seen()) for queue in queues(1)]
    for actor in actors:
        for number in range(3):
            actor.send(number)
        actor.send_with_options(args=(3,), delay=60_000)
        assert counts(streams, actor.queue_name) == (3, 1, 0, 0)
    with pytest.raises(QueueJoinTimeout):
        streams.join(actors[0].queue_name, timeout=10)
    assert streams.inspector.purge(actors[0].queue_name) == 4
    streams.join(actors[0].queue_name, timeout=10)
    streams.flush_all()
    assert [counts(streams, actor.queue_name) for actor in actors] == [(0, 0, 0, 0)] * 3


def blocked(cluster: Cluster) -> int:
    """How many clients wait in a blocking read, on all nodes."""
    total = 0
    for node in cluster.nodes:
        with cluster.to(node) as client:
            total += int(client.info("clients")["blocked_clients"])
    return total


def test_a_blocked_worker_is_woken_at_once(
    streams: StreamsBroker, queues: Queues, cluster: Cluster
) -> None:
    seen = Seen()
    actors = [recorder(streams, queue, seen) for queue in queues(1)]
    before = blocked(cluster)
    worker = Worker(streams, worker_threads=2, worker_timeout=1500)
    worker.start()
    try:
        for actor in actors:
            eventually(lambda: blocked(cluster) - before, lambda now: now == 3, what="blocking")
            sent_at = time.monotonic()
            actor.send("now")
            assert seen.next() == (actor.queue_name, "now")
            assert time.monotonic() - sent_at < 1
            eventually(lambda: blocked(cluster) - before, lambda now: now == 3, what="blocking")
            sent_at = time.monotonic()
            actor.send_with_options(args=("later",), delay=100)
            assert seen.next() == (actor.queue_name, "later")
            assert 0.1 <= time.monotonic() - sent_at < 1.1
    finally:
        worker.stop()


def test_no_node_is_asked_where_keys_are(
    streams: StreamsBroker, queues: Queues, start_worker: StartWorker, client: redis.RedisCluster
) -> None:
    seen = Seen()
    actors = [recorder(streams, queue, seen) for queue in queues(1)]
    start_worker(streams)
    for actor in actors:
        actor.send("first")
    seen.take(3)
    client.config_resetstat(target_nodes="all")
    for number in range(3):
        for actor in actors:
            actor.send(number)
        seen.take(3)
    for stats in client.info("commandstats", target_nodes="all").values():
        assert "cmdstat_evalsha" in stats
        assert "cmdstat_xreadgroup" in stats
        assert "cmdstat_command|getkeys" not in stats


def hold(streams: StreamsBroker, queue: str, consumer: str) -> None:
    """Take the entries of a queue as another worker would that then says nothing more."""
    commands = Commands(streams.client, streams.namespace, streams.max_priority)
    taken = commands.fetch(queue, consumer, 10, lowest_first=False, suspects=1, signals=())
    assert taken.deliveries


def test_the_lease_of_a_silent_worker_runs_out(
    client: redis.RedisCluster,
    new_streams: ClusterBroker,
    queues: Queues,
    start_worker: StartWorker,
) -> None:
    streams = new_streams(client, heartbeat_timeout=300)
    names, seen = queues(1), Seen()
    for queue in names:
        recorder(streams, queue, seen).send("held")
        hold(streams, queue, "elsewhere/1/1/1/1")
    start_worker(streams)
    assert sorted(seen.take(3)) == sorted((queue, "held") for queue in names)
    for queue in names:
        streams.join(queue, timeout=TIMEOUT_MS)


def test_what_a_vanished_process_of_this_host_held_is_taken_back_at_once(
    streams: StreamsBroker, queues: Queues, start_worker: StartWorker
) -> None:
    here = ConsumerName.of_this_process()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    vanished = ConsumerName(here.host, here.pid_namespace, ended.pid, "1", 1)
    names, seen = queues(1), Seen()
    for queue in names:
        recorder(streams, queue, seen).send("held")
        hold(streams, queue, str(vanished))
    start_worker(streams)  # whose lease is a minute
    assert sorted(seen.take(3)) == sorted((queue, "held") for queue in names)


def test_a_long_job_keeps_its_lease(
    client: redis.RedisCluster,
    new_streams: ClusterBroker,
    queues: Queues,
    start_worker: StartWorker,
) -> None:
    streams = new_streams(client, heartbeat_timeout=500)
    seen, names = Seen(), queues(1)
    may_end = threading.Event()

    def slow(queue: str) -> None:
        seen.add(queue)
        wait_for(may_end, "the permission to end")

    for queue in names:
        declare(streams, slow, queue).send(queue)
    start_worker(streams, threads=6)
    assert sorted(seen.take(3)) == sorted(names)
    assert seen.nothing_more(1.1)  # more than twice the lease
    may_end.set()
    for queue in names:
        streams.join(queue, timeout=TIMEOUT_MS)
    assert seen.nothing_more(0.1)


def test_scripts_are_loaded_again_on_every_node(
    streams: StreamsBroker, queues: Queues, start_worker: StartWorker, client: redis.RedisCluster
) -> None:
    seen = Seen()
    actors = [recorder(streams, queue, seen) for queue in queues(1)]
    start_worker(streams)
    for number in range(3):
        client.script_flush()
        for actor in actors:
            actor.send(number)
        assert len(seen.take(3)) == 3
    for actor in actors:
        streams.join(actor.queue_name, timeout=TIMEOUT_MS)


def test_results_are_kept_in_the_cluster(
    streams: StreamsBroker, queues: Queues, start_worker: StartWorker
) -> None:
    backend = RedisBackend(client=streams.client, namespace=f"{streams.namespace}:results")
    streams.add_middleware(Results(backend=backend))

    def add(x: int, y: int) -> int:
        return x + y

    actors = [declare(streams, add, queue, store_results=True) for queue in queues(1)]
    start_worker(streams)
    sent = [actor.send(number, 1) for number, actor in enumerate(actors)]
    assert [m.get_result(block=True, timeout=TIMEOUT_MS) for m in sent] == [1, 2, 3]
    chain = dramatiq.pipeline([actors[0].message(1, 2), actors[1].message(3), actors[2].message(4)])
    assert chain.run().get_result(block=True, timeout=TIMEOUT_MS) == 10
    several = dramatiq.group([actor.message(1, number) for number, actor in enumerate(actors)])
    assert list(several.run().get_results(block=True, timeout=TIMEOUT_MS)) == [1, 2, 3]


BODY = """
def job(label):
    if label == "hold" and first_time("hold"):
        note("held", label)
        wait_for_permission("never")
    note("done", label)


for name in {queues!r}:
    dramatiq.actor(job, actor_name="job_" + name, queue_name=name)
"""


@pytest.mark.parametrize("server_kind", ["valkey"], indirect=True)
def test_the_command_line_works_on_a_cluster_and_survives_a_kill(
    streams: StreamsBroker,
    cluster: Cluster,
    queues: Queues,
    launch: Launcher,
    source: Source,
    effects: Effects,
) -> None:
    names = queues(1)
    module = source(cluster, BODY.format(queues=names), heartbeat_timeout=1500)
    first = launch(module, processes=2, threads=2)
    pids = first.wait_until_ready()

    def message(queue: str, label: str) -> dramatiq.Message[None]:
        return dramatiq.Message(
            queue_name=queue, actor_name=f"job_{queue}", args=(label,), kwargs={}, options={}
        )

    streams.enqueue_many(message(queue, str(number)) for number in range(10) for queue in names)
    done = effects.take(30, "done")
    assert {effect.pid for effect in done} <= set(pids)
    for queue in names:
        streams.join(queue, timeout=TIMEOUT_MS)
    held = streams.enqueue(message(names[0], "hold"))
    effects.next("held")
    first.kill_everything()
    second = launch(module, threads=4)
    second.wait_until_ready()
    assert effects.next("done").message_id == held.message_id
    streams.join(names[0], timeout=TIMEOUT_MS)
    assert second.terminate() == 0
    assert len([effect for effect in effects.catch_up() if effect.event == "done"]) == 31
