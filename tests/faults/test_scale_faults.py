"""Rows 51 to 53, 56 to 58 and 60: large backlogs, one instant, many consumers, thin streams."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import pytest
from dramatiq import Message

from broker import StreamsBroker
from broker.commands import Commands, Handed
from broker.embedded import EmbeddedValkey
from broker.outcome import Bury, Done, Release, Settled
from broker.settlement import Settlement
from tests.applications import Effects
from tests.faults.conftest import Source, valkey_only
from tests.faults.history import History
from tests.processes import ROOT, Launcher
from tests.waiting import eventually

JOBS = """
@dramatiq.actor(queue_name="work")
def short(label):
    note_all(["started", "done"], label)


@dramatiq.actor(queue_name="work")
def timed(due_ms):
    late_ms = time.time() * 1000 - due_ms
    note_all(["started", "done"], f"{late_ms:.3f}")
"""

QUEUE = "work"
CALL = 200


@pytest.fixture
def commands(producer: StreamsBroker) -> Commands:
    """The scripts, for consumers that are no processes: there can be thousands of them."""
    return Commands(producer.client, producer.namespace, producer.max_priority)


def fetch(commands: Commands, consumer: str, count: int) -> list[Handed]:
    """Up to so many entries for this consumer, by the script that workers use."""
    taken: list[Handed] = []
    while len(taken) < count:
        fetched = commands.fetch(
            QUEUE,
            consumer,
            min(CALL, count - len(taken)),
            lowest_first=False,
            suspects=1,
            signals=(),
        )
        if not fetched.deliveries:
            break
        taken += fetched.deliveries
    return taken


def settle(commands: Commands, handed: Sequence[Handed], outcome: Done | Release | Bury) -> None:
    """End these deliveries; none of them may be stale."""
    for start in range(0, len(handed), CALL):
        batch = [Settlement(one.lease, _id(one), "", outcome) for one in handed[start:][:CALL]]
        assert set(commands.settle(QUEUE, batch)) == {Settled.OK}


def _id(handed: Handed) -> str:
    fields = dict(zip(handed.fields[::2], handed.fields[1::2], strict=True))
    return fields[b"id"].decode()


def resident_mb(pid: int) -> float:
    """The memory that the process has in use."""
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024


def p99(values: Sequence[float]) -> float:
    """The value that one in a hundred is above."""
    return quantiles(values, n=100)[-1]


def run(effects: Effects, commands: Commands, handed: Sequence[Handed]) -> None:
    """Be the jobs of a consumer that is no process: note what a job notes, and settle."""
    ids = [_id(one) for one in handed]
    effects.note("started", ids)
    effects.note("done", ids)
    settle(commands, handed, Done())


def fetch_times_ms(effects: Effects, commands: Commands, count: int) -> list[float]:
    """The duration of so many fetches of 16 entries each."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        handed = fetch(commands, "measuring", 16)
        times.append((time.perf_counter() - began) * 1000)
        assert len(handed) == 16
        run(effects, commands, handed)
    return times


@pytest.mark.slow
@pytest.mark.timeout(600)
@valkey_only
def test_51_a_backlog_of_a_million_slows_no_fetch_and_costs_a_worker_nothing(
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    commands: Commands,
) -> None:
    small, large, fetches, at_once = 20_000, 1_000_000, 500, 50_000
    history.send_many("short", range(small))
    few = p99(fetch_times_ms(effects, commands, fetches))
    history.injure()
    for start in range(0, large, at_once):
        history.send_many("short", range(start, start + at_once))
    many = p99(fetch_times_ms(effects, commands, fetches))
    worker = launch(source(JOBS), threads=8)
    (pid,) = worker.wait_until_ready()
    effects.take(500, "done")
    begin = resident_mb(pid)
    effects.take(15_000, "done", timeout_s=120)
    grown = resident_mb(pid) - begin
    assert worker.terminate() == 0
    history.measure("fetch p99 with 20 thousand, ms", few)
    history.measure("fetch p99 with a million, ms", many)
    history.measure("worker's growth over 15,000 jobs, MB", grown)
    history.check(failures=0)
    assert many <= 2 * few + 1, f"p99 of a fetch: {few:.2f} ms, then {many:.2f} ms"
    assert grown < 10


@pytest.mark.slow
@pytest.mark.timeout(600)
@valkey_only
def test_52_a_hundred_thousand_jobs_of_one_instant_are_promoted_in_batches(
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    producer: StreamsBroker,
) -> None:
    count, ahead_s = 100_000, 25
    client = producer.client
    worker = launch(source(JOBS), processes=2, threads=8)
    worker.wait_until_ready()
    due_ms = time.time() * 1000 + ahead_s * 1000
    for _ in range(count // CALL):
        delay = int(due_ms - time.time() * 1000)
        history.send_many("timed", [due_ms] * CALL, delay=delay)
    assert time.time() * 1000 < due_ms, "the machine was too slow to schedule them all before"
    assert producer.inspector.queue(QUEUE).scheduled == count
    client.config_set("slowlog-log-slower-than", 10_000)
    client.slowlog_reset()
    client.config_resetstat()
    history.injure()
    done = effects.take(count, "done", timeout_s=ahead_s + 180)
    history.recovered()
    history.settle_down()
    slow: Any = client.slowlog_get(1000)
    longest_ms = max(
        (each["duration"] / 1000 for each in slow if each["command"].startswith(b"EVAL")),
        default=0.0,
    )
    latency: Any = client.info("latencystats")
    p999_ms = latency["latency_percentiles_usec_evalsha"]["p99.9"] / 1000
    late = [float(effect.label) for effect in done]
    history.measure("lateness p50, ms", median(late))
    history.measure("lateness p99, ms", p99(late))
    history.measure("script p99.9, ms", p999_ms)
    history.measure("longest script above 10 ms, ms", longest_ms)
    history.check(failures=0)
    assert min(late) >= -2, "early: more than the rounding of two clocks' milliseconds"
    # By the wall clock, in which the server waits for its core as well; promoting all at once
    # would be ten times the second bound.
    assert p999_ms <= 10
    assert longest_ms <= 100


@valkey_only
def test_53_a_scheduled_job_on_an_idle_queue_starts_within_50_ms_of_its_time(
    launch: Launcher, source: Source, history: History, effects: Effects
) -> None:
    launch(source(JOBS), threads=1).wait_until_ready()

    def lateness(delay: int) -> float:
        history.wait_until_blocked()
        history.injure()
        history.send("timed", time.time() * 1000 + delay, delay=delay)
        return float(effects.next("done").label)

    late = {delay: lateness(delay) for delay in (300, 400, 500, 600, 1300)}
    # One of five may meet a machine that is busy with other tests; by itself it is late again.
    slow = [delay for delay, ms in late.items() if ms > 50]
    assert len(slow) <= 1, f"ms late, by delay: {late}"
    late |= {delay: lateness(delay) for delay in slow}
    history.settle_down()
    history.measure("lateness p50, ms", median(late.values()))
    history.measure("lateness at the most, ms", max(late.values()))
    assert min(late.values()) >= -2, "early: more than the rounding of two clocks' milliseconds"
    assert max(late.values()) <= 50, f"ms late, by delay: {late}"
    history.check(failures=0)


def test_56_an_orphan_behind_ten_thousand_healthy_jobs_is_found(
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    commands: Commands,
) -> None:
    lease_ms, healthy = 30_000, 10_000
    history.send_many("short", range(healthy))
    held = fetch(commands, "healthy", healthy)
    assert len(held) == healthy
    orphan = history.send("short", "orphan")
    (left,) = fetch(commands, "vanished", 1)
    age(commands, left, lease_ms)
    history.injure()
    launch(source(JOBS, heartbeat_timeout=lease_ms), threads=1)
    assert effects.next("done").message_id == orphan
    # Its first round, not the next one, a third of the lease later.
    assert history.recovered() < lease_ms / 3000
    # The orphan's settlement comes a little after what it did.
    held_by = eventually(
        lambda: set(history.places().in_flight), lambda ids: orphan not in ids, what="its end"
    )
    assert len(held_by) == healthy, "the healthy ones were touched"
    run(effects, commands, held)
    history.settle_down()
    history.check(failures=1)


def age(commands: Commands, handed: Handed, idle_ms: int) -> None:
    """As if this delivery had not been renewed for so long."""
    lease = handed.lease
    stream = commands.keys(QUEUE).ready[lease.level]
    client: Any = commands.client
    client.xclaim(
        *(stream, "workers", lease.consumer, 0, [lease.entry_id]),
        idle=idle_ms,
        retrycount=lease.count,
        justid=True,
    )


@pytest.mark.slow
@valkey_only
def test_57_ten_thousand_consumers_come_and_go_and_only_what_they_held_is_left(
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    commands: Commands,
    producer: StreamsBroker,
) -> None:
    # More than one round of a keeper takes back, so that the holder is due to be reaped before.
    consumers, unsettled = 10_000, 5000
    history.send_many("short", range(consumers + unsettled))
    assert len(fetch(commands, "gone-holding", unsettled)) == unsettled
    held: list[Handed] = []
    for number in range(1, consumers):
        held += fetch(commands, f"gone-{number}", 1)
    run(effects, commands, held)
    keys = commands.keys(QUEUE)
    assert len(names(producer.client, keys.wake)) == consumers
    assert len(names(producer.client, keys.ready[0])) == consumers
    history.injure()
    launch(source(JOBS), threads=2).wait_until_ready()
    eventually(
        lambda: [names(producer.client, stream) for stream in (keys.wake, keys.ready[0])],
        lambda left: all(len(found) <= 2 for found in left),  # the worker and ~released
        what="the reaping",
    )
    history.settle_down()
    history.recovered()
    assert history.finished() == set(history.acknowledged)
    history.check(failures=1)


def names(client: Any, stream: str) -> list[str]:
    """The consumers of a stream's group."""
    return [row["name"].decode() for row in client.xinfo_consumers(stream, "workers")]


#: What an entry that survives may keep of its stream's memory: a node of 4 KiB, and its own
#: places in the index and in the list of pending entries.
BYTES_A_SURVIVOR = 4096 + 512


@valkey_only
def test_58_one_survivor_in_fifteen_keeps_a_node_at_most(
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    commands: Commands,
    producer: StreamsBroker,
) -> None:
    survivors: list[Handed] = []
    stream = commands.keys(QUEUE).ready[0]
    history.injure()
    for _ in range(10):
        history.send_many("short", range(1500))
        handed = fetch(commands, "survivor", 1500)
        survivors += handed[::15]
        run(effects, commands, [one for at, one in enumerate(handed) if at % 15])
    kept = producer.client.memory_usage(stream, samples=0)
    assert kept is not None
    history.measure("bytes a survivor", kept / len(survivors))
    assert len(survivors) == 1000
    assert kept <= len(survivors) * BYTES_A_SURVIVOR
    settle(commands, survivors, Release())
    launch(source(JOBS), threads=4)
    history.settle_down()
    empty = producer.client.memory_usage(stream, samples=0)
    assert empty is not None
    assert empty <= 4 * BYTES_A_SURVIVOR, "an empty stream is back at its beginning"
    history.check(failures=0)


LETTERS = 100_000
PER_SECOND = 20_000

REDRIVE = f"""
import sys
from broker import StreamsBroker

broker = StreamsBroker(url=sys.argv[1], namespace=sys.argv[2])
print("ready", flush=True)
broker.inspector.redrive("{QUEUE}", per_second={PER_SECOND})
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@valkey_only
def test_60_a_redrive_killed_half_way_and_run_again_moves_each_letter_once_and_keeps_its_rate(
    hurt: EmbeddedValkey, producer: StreamsBroker, commands: Commands, history: History
) -> None:
    tried = {"retries": 3}
    sent: list[Message[None]] = [
        Message(QUEUE, "short", (f"job {n}",), {}, tried) for n in range(LETTERS)
    ]
    producer.declare_queue(QUEUE)
    producer.enqueue_many(sent)
    ids = [message.message_id for message in sent]
    history.acknowledge(ids)
    while handed := fetch(commands, "c", 10_000):
        settle(commands, handed, Bury("retries_exhausted", "ValueError: x", "short", "ValueError"))
    assert producer.inspector.queue(QUEUE).dead == LETTERS
    (group,) = producer.inspector.dead_groups(QUEUE)
    assert (group.count, group.actor, group.error_type) == (LETTERS, "short", "ValueError")
    history.injure()
    arguments = [sys.executable, "-c", REDRIVE, hurt.url, producer.namespace]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        began = time.monotonic()
        moved = eventually(
            lambda: producer.inspector.queue(QUEUE).ready,
            lambda ready: ready >= LETTERS // 3,
            what="a third of the redrive",
        )
        took = time.monotonic() - began
        process.kill()
    assert moved <= (took + 0.2) * PER_SECOND
    left = producer.inspector.queue(QUEUE).dead
    assert 0 < left < LETTERS
    began = time.monotonic()
    assert producer.inspector.redrive(QUEUE, per_second=PER_SECOND) == left
    assert left <= (time.monotonic() - began + 0.2) * PER_SECOND
    history.measure("letters redriven a second", left / (time.monotonic() - began))
    assert producer.inspector.redrive(QUEUE) == 0
    assert sorted(history.places().ready) == sorted(ids)
    history.check(failures=0, redriven=ids, at_rest=False)
    (one,) = fetch(commands, "c", 1)
    options = dict(zip(one.fields[::2], one.fields[1::2], strict=True))[b"options"]
    assert b"retries" not in options
    assert b'"redrives":1' in options
