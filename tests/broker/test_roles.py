"""The roles' users: each does its work, and nothing else is allowed to it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Message

from broker import QueueLimit, StreamsBroker
from broker.embedded import EmbeddedValkey
from broker.errors import AuthenticationRefused, InvalidOption
from broker.keys import QueueKeys
from broker.lua_access import KNOWN
from broker.roles import RoleName, user
from broker.scripts import names, script
from middleware.scheduler import Scheduler
from pipelines import flows
from pipelines.flow import chain
from tests.conftest import NewBroker, StartWorker
from tests.waiting import eventually, wait_for

PASSWORD = "correct horse"
NewUser = Callable[..., str]


@pytest.fixture
def new_user(server: EmbeddedValkey, client: redis.Redis, namespace: str) -> Iterator[NewUser]:
    """Make a role's user in the server; gives a URL to log in with."""
    made: list[str] = []

    def make(role: RoleName, **options: Any) -> str:
        name = f"{role}-{len(made)}-{namespace}"
        found = user(role, namespace, name=name, password=PASSWORD, **options)
        client.execute_command("ACL", "SETUSER", found.name, *found.rules)
        made.append(name)
        password = PASSWORD.replace(" ", "%20")
        return server.url.replace("redis://", f"redis://{name}:{password}@")

    yield make
    log: list[Any] = client.acl_log()
    denied = [(row["username"], row["object"], row["context"]) for row in log]
    client.execute_command("ACL", "DELUSER", *(made or ["nobody"]))
    # setinfo is redis-py's introduction, which it does without.
    unexpected = [each for each in denied if each[0] in made and each[1] != "client|setinfo"]
    assert getattr(make, "may_be_denied", False) or unexpected == []


@pytest.fixture
def broker_of(new_user: NewUser, new_broker: NewBroker) -> Callable[..., StreamsBroker]:
    def make(role: RoleName, **options: Any) -> StreamsBroker:
        made = new_broker("streams", new_user(role, **options))
        assert isinstance(made, StreamsBroker)
        return made

    return make


def test_the_text_of_the_scripts_names_no_command_that_is_not_known() -> None:
    for name in names():
        called = set(re.findall(r'\bredis\.p?call\(\s*"([A-Z]+)"', script(name).source))
        assert called <= KNOWN, name


def test_what_a_producer_sends_a_worker_runs_retries_and_buries(
    broker_of: Callable[..., StreamsBroker], start_worker: StartWorker
) -> None:
    ran: list[object] = []
    failed = threading.Event()

    def declare(broker: StreamsBroker) -> None:
        @dramatiq.actor(queue_name="mail", broker=broker, max_retries=1, min_backoff=1)
        def deliver(what: object) -> None:
            ran.append(what)
            if what == "bad":
                failed.set()
                raise ValueError(what)

    worker, producer = broker_of("worker"), broker_of("producer")
    for broker in (worker, producer):
        declare(broker)
    worker.inspector.limit("mail", QueueLimit(global_concurrency=4, rate=1_000))
    send = producer.actors["deliver"].send_with_options
    send(args=("plain",))
    send(args=("later",), delay=10)
    send(args=("urgent",), broker_priority=2)
    for _ in range(2):
        send(args=("once",), deduplication_key="k", delay=50)
    send(args=("bad",))
    started = start_worker(worker)
    wait_for(failed, "the failure")
    eventually(lambda: worker.inspector.queue("mail").dead, lambda dead: dead == 1)
    eventually(lambda: worker.inspector.size("mail"), lambda size: size == 0)
    assert sorted(map(str, ran)) == ["bad", "bad", "later", "once", "plain", "urgent"]
    started.stop()


def test_a_flow_runs_between_a_producer_and_a_worker(
    broker_of: Callable[..., StreamsBroker], start_worker: StartWorker
) -> None:
    worker, producer = broker_of("worker"), broker_of("producer")

    @dramatiq.actor(queue_name="mail", broker=worker)
    def step(*results: object) -> int:
        return 1

    messages = [Message[Any]("mail", "step", (), {}, {}) for _ in range(2)]
    id = flows.start(chain("both", *messages), broker=producer)
    started = start_worker(worker)
    assert flows.wait(id, 20_000, broker=worker).state == "completed"
    started.stop()


def test_a_running_job_is_cancelled_by_an_admin(
    broker_of: Callable[..., StreamsBroker], start_worker: StartWorker
) -> None:
    worker, admin = broker_of("worker"), broker_of("admin")
    begun = threading.Event()

    @dramatiq.actor(queue_name="mail", broker=worker)
    def endless() -> None:
        begun.set()
        for _ in range(2_000):
            threading.Event().wait(0.01)

    message = endless.send()
    started = start_worker(worker)
    wait_for(begun, "the job")
    assert admin.jobs.cancel(message.message_id)
    assert admin.jobs.wait(message.message_id, 10_000).state.value == "cancelled"
    started.stop()


def test_a_scheduler_fires_and_an_admin_looks_after_it(
    broker_of: Callable[..., StreamsBroker],
) -> None:
    scheduler, admin = broker_of("scheduler"), broker_of("admin")

    @dramatiq.actor(queue_name="mail", broker=admin)
    def tidy() -> None: ...

    admin.inspector.schedules.add("often", "tidy", "* * * * * *")
    clock = Scheduler(scheduler, [])
    eventually(lambda: (clock.tick(), admin.inspector.queue("mail").ready)[1], bool, what="a fire")
    assert admin.inspector.schedules.pause("often")
    assert admin.inspector.schedules.resume("often")
    admin.inspector.schedules.remove("often")


def test_a_dashboard_looks_at_everything_and_changes_nothing(
    broker_of: Callable[..., StreamsBroker], new_user: NewUser, start_worker: StartWorker
) -> None:
    admin, dashboard = broker_of("admin"), broker_of("dashboard")
    sent = admin.enqueue_many(Message("mail", "deliver", (n,), {}, {}) for n in range(3))
    admin.enqueue(Message("mail", "deliver", (), {}, {}), delay=60_000)
    look = dashboard.inspector
    assert (look.queue("mail").ready, look.queue("mail").scheduled) == (3, 1)
    assert look.traffic("mail").entered == 3
    assert look.limit_of("mail") == QueueLimit()
    assert (look.workers(), look.schedules.list(), look.dead("mail")) == ([], [], [])
    assert look.dead_page("mail").letters == []
    for state in ("queued", "scheduled", "running", "completed", "dead"):
        dashboard.jobs.list("mail", state)
    record = dashboard.jobs.get(sent[0].message_id)
    assert record is not None
    assert next(iter(dashboard.events.follow(["mail"], start="0-0"))).name == "queued"
    new_user.may_be_denied = True  # type: ignore[attr-defined]
    actions: list[Callable[[], object]] = [
        lambda: look.pause("mail"),
        lambda: look.purge("mail"),
        lambda: look.limit("mail", QueueLimit(1)),
        lambda: dashboard.jobs.cancel(sent[0].message_id),
        lambda: dashboard.enqueue(Message("mail", "deliver", (), {}, {})),
    ]
    before = admin.inspector.queue("mail")
    for action in actions:
        with pytest.raises(AuthenticationRefused):
            action()
    after = admin.inspector.queue("mail")
    assert (after.ready, after.scheduled, after.paused) == (before.ready, before.scheduled, False)


def _allowed(client: redis.Redis, name: str, *command: str) -> bool:
    return bool(client.execute_command("ACL", "DRYRUN", name, *command) == b"OK")


def test_a_producer_of_one_queue_can_neither_read_nor_write_another(
    broker_of: Callable[..., StreamsBroker], new_user: NewUser, client: redis.Redis
) -> None:
    producer = broker_of("producer", queues=["mail"])
    producer.enqueue(Message("mail", "deliver", (), {}, {}))
    new_user.may_be_denied = True  # type: ignore[attr-defined]
    with pytest.raises(AuthenticationRefused):
        producer.enqueue(Message("files", "convert", (), {}, {}))
    with pytest.raises(AuthenticationRefused):
        producer.enqueue(Message("files", "convert", (), {}, {}), delay=1_000)
    keys = producer.commands.keys("files")
    assert client.exists(*keys.ready, keys.scheduled, keys.events, keys.wake) == 0
    client.xadd(keys.ready[0], {"id": "1"})
    for read in (producer.client.xrange, producer.client.xlen, producer.client.type):
        with pytest.raises(redis.exceptions.NoPermissionError):
            read(keys.ready[0])
    with pytest.raises(redis.ResponseError, match=r"[Aa]CL|permission|can.t (run|access)"):
        producer.client.eval("return redis.call('XLEN', KEYS[1])", 1, keys.ready[0])


def test_a_script_of_the_users_own_may_do_no_more_either(
    new_user: NewUser, server: EmbeddedValkey, namespace: str
) -> None:
    ready = QueueKeys(namespace, "mail", 9).ready[0]
    with redis.Redis.from_url(new_user("producer")) as producer:
        new_user.may_be_denied = True  # type: ignore[attr-defined]
        producer.xadd(ready, {"id": "1"})
        for text in ("redis.call('XRANGE', KEYS[1], '-', '+')", "redis.call('DEL', KEYS[1])"):
            with pytest.raises(redis.ResponseError, match=r"[Aa]CL|permission|can.t (run|access)"):
                producer.eval(f"return {text}", 1, ready)
        assert producer.xlen(ready) == 1


def test_the_keys_of_the_jobs_themselves_are_the_workers_and_nobody_elses(
    new_user: NewUser, client: redis.Redis, namespace: str
) -> None:
    new_user("worker", own=[f"{namespace}:inbox:*"])
    new_user("producer", own=[f"{namespace}:inbox:*"])
    command = ("XADD", f"{namespace}:inbox:u1", "*", "a", "b")
    assert _allowed(client, f"worker-0-{namespace}", *command)
    assert not _allowed(client, f"producer-1-{namespace}", *command)
    assert not _allowed(client, f"worker-0-{namespace}", "FLUSHALL")


@pytest.mark.parametrize(
    "wrong", [{"name": "a b"}, {"own": ["x ~*"]}, {"own": ["x)"]}, {"name": ""}]
)
def test_a_name_or_pattern_that_would_end_a_rule_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        user("worker", "ns", **wrong)


def test_a_queue_with_a_patterns_signs_is_itself_alone(
    new_user: NewUser, client: redis.Redis, namespace: str
) -> None:
    new_user("producer", queues=["m*"])
    command = ("XADD", QueueKeys(namespace, "mail", 9).ready[0], "*", "a", "b")
    assert not _allowed(client, f"producer-0-{namespace}", *command)


def test_a_users_repr_hides_its_rules_and_the_line_has_only_a_hash() -> None:
    made = user("producer", "ns", password=PASSWORD)
    assert PASSWORD not in made.line
    assert "#" not in repr(made)
