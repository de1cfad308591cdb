"""Worker processes of the real command line are replaced, and no job notices."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import dramatiq
import msgspec
import pytest
from dramatiq import Message

from actors.app import build_broker
from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from broker.settings import Settings
from middleware.recycling import Recycling
from tests.applications import Effects, application
from tests.conftest import NewBroker
from tests.processes import CommandLine, Launcher
from tests.waiting import eventually

QUEUE = "work"
BODY = """
from broker.process_settings import RecyclingSettings
from middleware.recycling import Recycling, memory

broker.add_middleware(Recycling(RecyclingSettings({limits})))
kept = []

@dramatiq.actor(queue_name="work")
def work(label):
    delivery = CurrentMessage.get_current_message()
    note("done", f"{{label}} {{delivery.lease.count}} {{memory()}}")

@dramatiq.actor(queue_name="work")
def leak(label):
    kept.append(bytearray(b"x" * 20_000_000))
    time.sleep(0.1)
    work(label)

@dramatiq.actor(queue_name="work")
def slow(label):
    note("started", label)
    wait_for_permission(label)
    work(label)

@dramatiq.actor(queue_name="work")
def crash(label):
    os._exit(70)
"""

Start = Callable[..., CommandLine]


@pytest.fixture
def effects(valkey_server: EmbeddedValkey, namespace: str) -> Iterator[Effects]:
    made = Effects(valkey_server.url, namespace)
    yield made
    made.close()


@pytest.fixture
def producer(valkey_server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    made = new_broker("streams", valkey_server.url)
    assert isinstance(made, StreamsBroker)
    made.declare_queue(QUEUE)
    return made


@pytest.fixture
def start(launch: Launcher, valkey_server: EmbeddedValkey, namespace: str) -> Start:
    """Workers with these limits."""

    def launched(limits: str, *arguments: str, processes: int = 2, threads: int = 2) -> CommandLine:
        body = BODY.format(limits=limits)
        source = application("streams", valkey_server.url, namespace, body)
        workers = launch(source, *arguments, processes=processes, threads=threads)
        workers.wait_until_ready()
        return workers

    return launched


def send(producer: StreamsBroker, actor: str, label: str) -> Message[None]:
    message: Message[None] = dramatiq.Message(QUEUE, actor, (label,), {}, {})
    return producer.enqueue(message)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until_gone(pid: int) -> None:
    eventually(Path(f"/proc/{pid}").exists, lambda there: not there, what=f"the end of {pid}")


def test_jobs_sent_throughout_run_once_while_processes_come_and_go(
    start: Start, producer: StreamsBroker, effects: Effects
) -> None:
    workers = start("max_jobs=25")
    places = children(workers.pid)
    count = 0
    pids: set[int] = set()
    while len(pids) < 4:
        for _ in range(10):
            send(producer, "work", f"job-{count}")
            count += 1
        pids |= {effect.pid for effect in effects.take(10, "done")}
    assert workers.terminate() == 0
    seen = effects.catch_up()
    labels = Counter(effect.label.split()[0] for effect in seen)
    assert labels == Counter({f"job-{n}": 1 for n in range(count)})
    assert {effect.label.split()[1] for effect in seen} == {"1"}  # each at its first delivery
    assert "exited unexpectedly" not in workers.log
    assert workers.log.count("Draining this worker process") >= 2
    assert len(places) == 2


@pytest.mark.slow
def test_a_running_job_is_waited_for_and_its_neighbours_go_to_others(
    start: Start, producer: StreamsBroker, effects: Effects
) -> None:
    # Whatever time a stopping worker gives its jobs: it stops when they have ended.
    workers = start("max_jobs=1", "--worker-shutdown-timeout=100")
    send(producer, "slow", "long")
    holder = effects.next("started").pid
    # Whoever runs one has reached its limit; the holder drains until its long job ends.
    ran = 0
    while ran != holder:
        send(producer, "work", "short")
        ran = effects.next("done").pid
    workers.wait_for_log(rf"\[PID {holder}\].*Draining this worker process")
    done = {send(producer, "work", f"other-{n}").message_id for n in range(5)}
    assert {effects.next("done").message_id for _ in range(5)} == done
    assert not re.search(rf"\[PID {holder}\].*Stopping worker process", workers.log)
    effects.permit("long")
    ended = effects.next("done")
    assert (ended.pid, ended.label.split()[:2]) == (holder, ["long", "1"])
    wait_until_gone(holder)
    assert workers.terminate() == 0


@pytest.mark.slow
def test_a_process_that_holds_too_much_memory_is_replaced(
    start: Start, producer: StreamsBroker, effects: Effects
) -> None:
    workers = start("max_memory=200_000_000", processes=1, threads=1)
    pids = set()
    for n in range(100):
        send(producer, "leak", f"leak-{n}")
        pids.add(effects.next("done").pid)
        if len(pids) == 3:
            break
    assert len(pids) == 3
    assert re.search(r"reached \d+ bytes of memory", workers.log)
    assert workers.terminate() == 0


def test_a_limit_below_what_a_new_worker_holds_is_ignored(
    start: Start, producer: StreamsBroker, effects: Effects
) -> None:
    workers = start("max_memory=1_000_000", processes=1)
    workers.wait_for_log("recycling.max_memory is ignored")
    pids = set()
    for n in range(5):
        send(producer, "work", f"job-{n}")
        pids.add(effects.next("done").pid)
    assert len(pids) == 1


@pytest.mark.slow
def test_a_worker_that_dies_ends_its_main_process_as_ever(
    start: Start, producer: StreamsBroker
) -> None:
    workers = start("max_jobs=100", processes=2)
    send(producer, "crash", "now")
    assert workers.wait() == 70
    assert "exited unexpectedly (code 70)" in workers.log


@pytest.mark.slow
def test_a_killed_worker_is_seen_as_killed_and_no_orphan_stays(
    start: Start, producer: StreamsBroker, effects: Effects
) -> None:
    workers = start("max_jobs=100", processes=1)
    (place,) = children(workers.pid)
    (worker,) = children(place)
    os.kill(worker, signal.SIGKILL)
    assert workers.wait() == 1
    workers.wait_for_log(r"exited unexpectedly \(code -9\)")

    again = start("max_jobs=100", processes=1)
    (place,) = children(again.pid)
    (worker,) = children(place)
    os.kill(place, signal.SIGKILL)
    again.wait()
    wait_until_gone(worker)


@pytest.mark.slow
def test_a_stop_while_a_process_makes_way_is_a_clean_one(
    start: Start, producer: StreamsBroker, effects: Effects
) -> None:
    workers = start("max_jobs=1", processes=1)
    send(producer, "work", "last")
    workers.wait_for_log("Stopping worker process")
    assert workers.terminate() == 0
    assert "Killing worker process" not in workers.log


def test_the_application_recycles_when_its_settings_say_so(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("[recycling]\nmax_jobs = 5\n")
    recycled = build_broker(Settings.load({}, path))
    assert isinstance(recycled.middleware[-1], Recycling)
    plain = build_broker(Settings.load({}))
    assert not any(isinstance(each, Recycling) for each in plain.middleware)


@pytest.mark.slow
def test_the_applications_workers_are_replaced_with_their_whole_stack(
    launch: Launcher, valkey_server: EmbeddedValkey, namespace: str, tmp_path: Path
) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('[recycling]\nmax_jobs = 3\n[logging]\nformat = "json"\n')
    environment = {
        "REDIS_URL": valkey_server.url,
        "QUEUE_PREFIX": namespace,
        "HEADRACE_SETTINGS": str(path),
    }
    workers = launch("import actors\n", environment=environment)
    first = workers.wait_until_ready()
    producer = build_broker(
        msgspec.structs.replace(
            Settings.load({}), redis_url=valkey_server.url, queue_prefix=namespace
        )
    )
    report = {"taskType": "queue_report", "parameters": {"output": "report.json"}}
    for _ in range(7):
        message: Message[None] = Message("maintenance-queue", "run_maintenance", (report,), {}, {})
        producer.enqueue(message)
    workers.wait_for_log('"event":"job_completed"', count=7)
    again = workers.wait_until_ready(boots=3)
    assert len(set(again)) == 3 == len({*again, *first})
    producer.close()
    assert workers.terminate() == 0
    for line in workers.log.splitlines():
        assert "[dramatiq.MainProcess]" in line or msgspec.json.decode(line), line
