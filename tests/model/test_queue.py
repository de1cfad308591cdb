"""Random lives of a queue keep every promise, on both servers."""

from __future__ import annotations

import secrets

import pytest
import redis
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import QueueMachine

QUICK = settings(
    max_examples=60,
    stateful_step_count=50,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)
LONG = settings(QUICK, max_examples=1_000, stateful_step_count=80, derandomize=False)


@pytest.fixture
def machine(client: redis.Redis) -> type[QueueMachine]:
    """The machine on this test's server."""
    return type("Queue", (QueueMachine,), {"client": client})


@pytest.mark.timeout(600)  # a failure is shrunk, which may take minutes
def test_a_short_life_of_a_queue_keeps_every_promise(machine: type[QueueMachine]) -> None:
    run_state_machine_as_test(machine, settings=QUICK)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(1_800)
def test_many_long_lives_of_a_queue_keep_every_promise(machine: type[QueueMachine]) -> None:
    number = secrets.randbits(64)
    print(f"@seed({number})")  # noqa: T201 - to see the same lives again
    run_state_machine_as_test(seed(number)(machine), settings=LONG)
