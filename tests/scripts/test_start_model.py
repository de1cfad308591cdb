"""start.lua against a model of GCRA with a line: every answer and every due time, to the ms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import TypeAlias

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.commands import Handed
from broker.delivery import Lease
from broker.embedded import EmbeddedValkey
from broker.limit_commands import Turn
from broker.limits import KeyLimits, Rate
from tests.scripts.conftest import GROUP, Scripts, fields_of
from tests.scripts.test_start import Jobs

History: TypeAlias = list[tuple[str, int]]
NewJobs: TypeAlias = Callable[[], Jobs]

KEY = "u1"
#: From the head of the line on, so many get a new time when the rate changes: line.lua.
LOOKED_AT = 16

rates = st.tuples(st.integers(1, 5), st.integers(1, 100), st.integers(1, 5)).map(
    lambda drawn: Rate(drawn[0], drawn[1], min(drawn[2], drawn[0]))
)
#: A new job comes; the n-th that waits comes back; so many ms pass; the rate changes.
sent = st.just(("send", 0))
came_back = st.tuples(st.just("come back"), st.integers(0, 5))
passed = st.tuples(st.just("pass"), st.integers(0, 120))
steps = st.lists(st.one_of(sent, came_back, passed), min_size=5, max_size=30)


@dataclass
class Model:
    """One key's rate and those that wait for it; times in us, due times in ms."""

    rate: Rate
    tat: int = 0
    known_interval: int | None = None
    line: list[str] = field(default_factory=list)
    due: dict[str, int] = field(default_factory=dict)
    names: count[int] = field(default_factory=count)

    def start(self, name: str, now: int) -> bool:
        interval, tolerance = self.rate.interval_us, self.rate.tolerance_us
        self.due.pop(name, None)
        if self.known_interval not in (None, interval):
            assert self.known_interval is not None
            self.tat += interval - self.known_interval
            self.known_interval = interval
            self._call(LOOKED_AT)
        place = self.line.index(name) if name in self.line else len(self.line)
        opens = self.tat - tolerance + place * interval
        if opens > now:
            if name not in self.line:
                self.line.append(name)
            self.due[name] = -(-opens // 1000)
            return False
        self.tat = max(self.tat, now) + interval
        self.known_interval = interval
        if name in self.line:
            self.line.remove(name)
        self._call(1)
        return True

    def _call(self, how_many: int) -> None:
        opens = self.tat - self.rate.tolerance_us
        for place, name in enumerate(self.line[:LOOKED_AT]):
            if name in self.due and how_many:
                self.due[name] = -(-(opens + place * self.rate.interval_us) // 1000)
                how_many -= 1


@pytest.fixture
def new_jobs(valkey_server: EmbeddedValkey, namespace: str) -> Iterator[NewJobs]:
    """A queue of its own for every example."""
    numbers = count()
    with redis.Redis.from_url(valkey_server.url) as client:

        def make() -> Jobs:
            scripts = Scripts(client, f"{namespace}-{next(numbers)}", client)
            scripts.fetch()  # makes the group
            return Jobs(scripts)

        yield make


def deliver(scripts: Scripts, name: str) -> Handed:
    """Hand over this job, scheduled or new, and no other that may be due by now."""
    scripts.client.zrem(scripts.keys.scheduled, name)
    scripts.client.hdel(scripts.keys.scheduled_messages, name)
    scripts.client.hsetnx(scripts.keys.job_prefix + name, "token", "")
    fields = fields_of(name)
    scripts.client.xadd(scripts.keys.ready[0], dict(zip(fields[::2], fields[1::2], strict=True)))
    ((_, ((entry_id, flat),)),) = scripts.client.xreadgroup(
        GROUP, "c1", {scripts.keys.ready[0]: ">"}, count=1
    )
    return Handed(Lease(0, entry_id, 1, "c1"), [part for pair in flat.items() for part in pair])


def run(jobs: Jobs, model: Model, history: History) -> list[int]:
    """Do the same to both and compare; when jobs started, in us of a clock that `pass` advances."""
    scripts, starts, ahead_us = jobs.scripts, [], 0
    for what, how_much in history:
        if what == "pass":
            if model.known_interval is not None:
                jobs.let_pass(KEY, how_much)
                model.tat -= how_much * 1000
                ahead_us += how_much * 1000
            continue
        if what == "come back" and model.line:
            name = model.line[how_much % len(model.line)]
        else:
            name = f"m{next(model.names)}"
        handed = deliver(scripts, name)
        answer = jobs.start(handed, KeyLimits(KEY, model.rate))
        assert (answer.turn is Turn.STARTED) == model.start(name, answer.now_us)
        assert {waiting: jobs.due(waiting) for waiting in model.line} == model.due
        if answer.turn is Turn.STARTED:
            starts.append(answer.now_us + ahead_us)
    return starts


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rate=rates, history=steps)
def test_answers_are_the_models_and_no_period_holds_too_many_starts(
    new_jobs: NewJobs, rate: Rate, history: History
) -> None:
    starts = run(new_jobs(), Model(rate), history)
    n = rate.limit + rate.burst - 1
    for first, last in zip(starts, starts[n:], strict=False):
        assert last - first >= rate.per_ms * 1000


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=st.lists(st.tuples(rates, steps), min_size=2, max_size=4))
def test_a_rate_may_change_while_jobs_wait(
    new_jobs: NewJobs, changes: list[tuple[Rate, History]]
) -> None:
    jobs, model = new_jobs(), Model(changes[0][0])
    for rate, history in changes:
        model.rate = rate
        run(jobs, model, history)
