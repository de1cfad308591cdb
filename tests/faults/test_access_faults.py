"""Rows 62 and 63: what the server denies to the roles' users, and when it is taken from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
import redis
from dramatiq import Message

from broker import lua_access
from broker.commands import BEGINNING, Commands, Handed
from broker.embedded import EmbeddedValkey
from broker.errors import AuthenticationRefused, ScriptDenied
from broker.letter_commands import Redriven
from broker.limits import KeyLimits, Rate
from broker.outcome import Bury, Retry
from broker.roles import RoleName, User, user
from broker.schedule_commands import ScheduleCommands
from broker.settlement import Settlement
from tests.applications import Effects
from tests.conftest import NewBroker
from tests.faults.conftest import Source
from tests.faults.history import History, Places
from tests.processes import Launcher
from tests.scripts.conftest import LEVELS, QUEUE, Scripts, fields_of

PASSWORD = "geheim"


def without(made: User, command: str) -> list[str]:
    """The user's rules, in which nothing allows this command."""
    rules = [re.sub(rf"\+{re.escape(command)}(?=[ )]|$)", "", rule) for rule in made.rules]
    return [rule for rule in rules if rule]


class Restricted:
    """A role's user on a server, of whom the test may take a command."""

    def __init__(self, server: EmbeddedValkey, owner: redis.Redis, namespace: str, role: RoleName):
        self.user = user(role, namespace, name=f"{role}-{namespace}", password=PASSWORD)
        self._owner = owner
        self.allow_all()
        self.url = server.url.replace("redis://", f"redis://{self.user.name}:{PASSWORD}@")
        self.client = redis.Redis.from_url(self.url)

    def allow_all(self) -> None:
        """Everything that the role needs."""
        self._set(list(self.user.rules))

    def deny(self, command: str) -> None:
        """All of it but this command."""
        self._set(without(self.user, command))

    def close(self) -> None:
        self.client.close()
        self._owner.execute_command("ACL", "DELUSER", self.user.name)

    def _set(self, rules: list[str]) -> None:
        self._owner.execute_command("ACL", "SETUSER", self.user.name, *rules)


Act = Callable[[redis.Redis], object]


def _by(scripts: Scripts, client: redis.Redis) -> Commands:
    """As a process that has just started."""
    return Commands(client, scripts.namespace, LEVELS - 1)


def _enqueue(scripts: Scripts) -> Act:
    new = scripts.new("m1", key="k", recorded=True)
    return lambda client: _by(scripts, client).enqueue(QUEUE, "token", [new])


def _schedule(scripts: Scripts) -> Act:
    new = scripts.new("m1", key="k", recorded=True)
    return lambda client: _by(scripts, client).schedule(QUEUE, "token", 60_000, [new])


def _fetch(scripts: Scripts) -> Act:
    scripts.schedule(scripts.new("m1", recorded=True), delay_ms=-1)
    return lambda client: _by(scripts, client).fetch(
        QUEUE, "c1", 1, lowest_first=False, suspects=1, signals=[]
    )


def _start(scripts: Scripts) -> Act:
    (handed,) = _taken(scripts)
    limits = KeyLimits("host", Rate(1, per_ms=3_600_000), "tenant", 1)
    return lambda client: _by(scripts, client).start(QUEUE, handed.lease, "m1", limits, 60_000)


def _settle(scripts: Scripts) -> Act:
    (handed,) = _taken(scripts)
    retry = Retry(60_000, 0, fields_of("m1"))
    ended = Settlement(handed.lease, "m1", "k", retry, ["actor", "record"], "went wrong")
    return lambda client: _by(scripts, client).settle(QUEUE, [ended])


def _reclaim(scripts: Scripts) -> Act:
    scripts.age(*_taken(scripts))
    return lambda client: _by(scripts, client).reclaim(QUEUE, 1_000, 1, 10, BEGINNING)


def _cancel(scripts: Scripts) -> Act:
    scripts.schedule(scripts.new("m1", key="k", recorded=True))
    return lambda client: _by(scripts, client).cancel(QUEUE, "m1")


def _redrive(scripts: Scripts) -> Act:
    scripts.settle(_taken(scripts)[0], Bury("rejected", ""))
    letter = Redriven("m1", "m1", 0, "k", fields_of("m1"))
    return lambda client: _by(scripts, client).redrive(QUEUE, [letter])


def _fire(scripts: Scripts) -> Act:
    schedules = ScheduleCommands(scripts.client, scripts.namespace, LEVELS - 1)
    schedules.put(QUEUE, "nightly", b"definition", "times", 1_000, declared=False)
    (kept,) = schedules.look(QUEUE)[1]
    new, at_ms = scripts.new("m1", recorded=True), scripts.now_ms() + 1_000
    return lambda client: ScheduleCommands(client, scripts.namespace, LEVELS - 1).fire(
        QUEUE, kept, at_ms, "allow", "token", new
    )


def _taken(scripts: Scripts) -> list[Handed]:
    scripts.enqueue(scripts.new("m1", key="k", recorded=True))
    return scripts.take(1)


#: By the script: who runs it, and what brings a message to where it takes it from.
MOVES: dict[str, tuple[RoleName, Callable[[Scripts], Act]]] = {
    "enqueue": ("producer", _enqueue),
    "schedule": ("producer", _schedule),
    "fetch": ("worker", _fetch),
    "start": ("worker", _start),
    "settle": ("worker", _settle),
    "reclaim": ("worker", _reclaim),
    "cancel": ("worker", _cancel),
    "fire": ("scheduler", _fire),
    "redrive": ("admin", _redrive),
}


@pytest.fixture
def restrict(
    server: EmbeddedValkey, client: redis.Redis, namespace: str
) -> Iterator[Callable[[RoleName], Restricted]]:
    """Make a role's user, of whom the test may take a command."""
    made: list[Restricted] = []

    def make(role: RoleName) -> Restricted:
        made.append(Restricted(server, client, namespace, role))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("name", MOVES)
def test_62_a_script_of_which_any_command_is_denied_writes_nothing_and_says_which(
    client: redis.Redis,
    namespace: str,
    restrict: Callable[[RoleName], Restricted],
    name: str,
) -> None:
    role, prepare = MOVES[name]
    scripts, restricted = Scripts(client, namespace, client), restrict(role)
    act = prepare(scripts)
    before = scripts.snapshot()
    for command in {access.command for access in lua_access.accesses(name)} - {"time", "publish"}:
        restricted.deny(command)
        with pytest.raises(ScriptDenied, match=re.escape(command)) as raised:
            act(restricted.client)
        assert raised.value.script == name
        assert {each.split()[0] for each in raised.value.denied} == {command}
        assert scripts.snapshot() == before, command
    restricted.allow_all()
    act(restricted.client)
    assert scripts.snapshot() != before


def test_62_a_denied_channel_leaves_a_running_job_as_it_is(
    client: redis.Redis, namespace: str, restrict: Callable[[RoleName], Restricted]
) -> None:
    scripts, admin = Scripts(client, namespace, client), restrict("admin")
    _taken(scripts)
    before = scripts.snapshot()
    admin.deny("publish")
    with pytest.raises(AuthenticationRefused):
        _by(scripts, admin.client).cancel(QUEUE, "m1")
    assert scripts.snapshot() == before
    admin.allow_all()
    assert _by(scripts, admin.client).cancel(QUEUE, "m1") == "requested"


def test_62_a_producer_that_may_not_note_its_queue_sends_nothing(
    client: redis.Redis,
    namespace: str,
    restrict: Callable[[RoleName], Restricted],
    new_broker: NewBroker,
) -> None:
    producer = restrict("producer")
    producer.deny("sadd")
    broker = new_broker("streams", producer.url)
    with pytest.raises(AuthenticationRefused):
        broker.enqueue(Message("work", "short", (), {}, {}))
    assert not client.keys(f"{{{namespace}*")


HOLD = """
@dramatiq.actor(queue_name="work", max_retries=1, min_backoff=200, max_backoff=200)
def hold(label):
    note("started", label)
    wait_for_permission(label)
    if label == "fails once" and first_time("failure"):
        raise RuntimeError("on purpose")
    note("done", label)
"""


def test_62_a_worker_that_may_not_settle_waits_with_that_until_it_may(
    hurt: EmbeddedValkey,
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    namespace: str,
) -> None:
    with redis.Redis.from_url(hurt.url) as owner:
        worker = Restricted(hurt, owner, namespace, "worker")
        process = launch(source(HOLD, url=worker.url), threads=1)
        process.wait_until_ready()
        held = history.send("hold", "job")
        effects.next("started")
        worker.deny("zadd")  # in the middle of the script that is to come
        history.injure()
        effects.permit("job")
        effects.next("done")
        process.wait_for_log(
            r"the server denies 'settle' to this user, for want of zadd \{", count=2
        )
        assert history.places() == Places([], [held], [], [])
        worker.allow_all()
        history.settle_down()
        history.recovered()
        history.check(failures=0)
        worker.close()


def test_62_what_is_taken_from_a_worker_that_runs_is_asked_for_after_the_first_refusal(
    hurt: EmbeddedValkey,
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    namespace: str,
) -> None:
    with redis.Redis.from_url(hurt.url) as owner:
        worker = Restricted(hurt, owner, namespace, "worker")
        process = launch(source(HOLD, url=worker.url), threads=1)
        process.wait_until_ready()
        effects.permit("before")
        history.send("hold", "before")
        history.settle_down()  # so the process knows that it may run the script
        history.send("hold", "fails once")
        effects.next("started", label="fails once")
        worker.deny("zadd")
        history.injure()
        effects.permit("fails once", 2)
        process.wait_for_log("the server refused access")
        process.wait_for_log("the server denies 'settle' to this user", count=2)
        worker.allow_all()
        effects.next("done", label="fails once")
        history.recovered()
        history.settle_down()
        history.check(failures=0, expected_runs=2)
        worker.close()
