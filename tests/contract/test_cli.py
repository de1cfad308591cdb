"""The `dramatiq` command line, unchanged, on both brokers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import dramatiq
import pytest
from dramatiq import Broker, Message

from broker.embedded import EmbeddedValkey
from tests.applications import Effects, application
from tests.contract.brokers import BrokerKind
from tests.processes import Launcher
from tests.servers import ServerKind

Send = Callable[..., Message[None]]

BODY = """
@dramatiq.actor(queue_name="letters")
def letter(label):
    note("done", label)


@dramatiq.actor(queue_name="parcels")
def parcel(label):
    note("done", label)


@dramatiq.actor(queue_name="letters")
def slow(label):
    note("started", label)
    wait_for_permission(label)
    note("done", label)

"""


@pytest.fixture
def server_kind() -> ServerKind:
    """The command line doesn't care which server it is; the fault tests use both."""
    return "valkey"


@pytest.fixture
def source(broker_kind: BrokerKind, server: EmbeddedValkey, namespace: str) -> str:
    return application(broker_kind, server.url, namespace, BODY)


@pytest.fixture
def effects(server: EmbeddedValkey, namespace: str) -> Iterator[Effects]:
    made = Effects(server.url, namespace)
    yield made
    made.close()


@pytest.fixture
def send(broker: Broker) -> Send:
    """Send from this process to an actor that only the worker's module has."""

    def enqueue(
        actor: str, *args: object, queue: str = "letters", delay: int | None = None
    ) -> Message[None]:
        broker.declare_queue(queue)
        message: Message[None] = dramatiq.Message(
            queue_name=queue, actor_name=actor, args=args, kwargs={}, options={}
        )
        return broker.enqueue(message, delay=delay)

    return enqueue


def test_several_processes_share_the_work(
    launch: Launcher, source: str, effects: Effects, send: Send
) -> None:
    workers = launch(source, processes=2, threads=1)
    pids = workers.wait_until_ready()
    assert len(set(pids)) == 2
    # One thread a process and a prefetch of two: four jobs in one are impossible.
    count = 8
    for number in range(count):
        send("slow", f"job-{number}")
    started = effects.next("started")
    while effects.next("started").pid == started.pid:
        pass
    for number in range(count):
        effects.permit(f"job-{number}")
    done = effects.take(count, "done")
    assert {effect.label for effect in done} == {f"job-{number}" for number in range(count)}
    assert {effect.pid for effect in done} == set(pids)
    assert workers.terminate() == 0


def test_a_delayed_job_is_executed(
    launch: Launcher, source: str, effects: Effects, send: Send
) -> None:
    workers = launch(source)
    workers.wait_until_ready()
    send("letter", "later", delay=200)
    assert effects.next("done").label == "later"


def test_queues_restricts_the_workers(
    launch: Launcher, source: str, effects: Effects, send: Send
) -> None:
    send("letter", "not mine")
    send("parcel", "mine", queue="parcels")
    workers = launch(source, "--queues", "parcels")
    workers.wait_until_ready()
    assert effects.next("done").label == "mine"
    assert workers.terminate() == 0
    assert [effect.label for effect in effects.catch_up()] == ["mine"]
    launch(source, "--queues", "letters")
    assert effects.next("done").label == "not mine"


def test_sigterm_lets_the_running_job_finish_and_exits_with_0(
    launch: Launcher, source: str, effects: Effects, send: Send
) -> None:
    workers = launch(source, threads=1)
    workers.wait_until_ready()
    send("slow", "running")
    effects.next("started")
    workers.signal(signal.SIGTERM)
    workers.wait_for_log("Stopping worker process")
    effects.permit("running")
    assert workers.wait() == 0
    assert effects.next("done").label == "running"
    workers.wait_for_log("Worker has been shut down")


def test_a_second_sigterm_kills_the_workers(
    launch: Launcher, source: str, effects: Effects, send: Send
) -> None:
    workers = launch(source, threads=1)
    workers.wait_until_ready()
    send("slow", "running")
    effects.next("started")
    workers.signal(signal.SIGTERM)
    workers.wait_for_log("Stopping worker process")
    workers.signal(signal.SIGTERM)
    workers.wait_for_log("Killing worker process")
    assert workers.wait() == 1


def test_sighup_reloads_the_workers(
    launch: Launcher, source: str, effects: Effects, send: Send
) -> None:
    workers = launch(source)
    first = workers.wait_until_ready()
    workers.signal(signal.SIGHUP)
    reloaded = workers.wait_until_ready(boots=2)
    assert reloaded[-1] not in first
    send("letter", "after")
    assert effects.next("done").pid == reloaded[-1]


def test_watch_reloads_a_touched_module_and_jobs_still_run(
    launch: Launcher, source: str, effects: Effects, send: Send
) -> None:
    workers = launch(source, "--watch", ".")
    workers.wait_until_ready()
    workers.wait_for_log("is booting up")
    send("letter", "before")
    assert effects.next("done").label == "before"
    changed = source.replace('note("done", label)', 'note("done", "changed " + label)')
    workers.module.write_text(changed, encoding="utf-8")
    workers.wait_until_ready(boots=2)
    send("letter", "after")
    assert effects.next("done").label == "changed after"


def test_a_module_that_cannot_be_imported_exits_with_dramatiqs_code(
    launch: Launcher, source: str
) -> None:
    workers = launch(source + "\nraise ImportError('on purpose')\n")
    assert workers.wait() == 2


@pytest.mark.parametrize("option", ["module:broker", "spawn"])
def test_other_ways_to_start(
    launch: Launcher, source: str, effects: Effects, send: Send, option: str
) -> None:
    arguments = ["--use-spawn"] if option == "spawn" else []
    module = "worker_module:broker" if option == "module:broker" else "worker_module"
    workers = launch(source, *arguments, module=module)
    workers.wait_until_ready()
    send("letter", "done")
    assert effects.next("done").label == "done"
