"""Random lives of a queue keep every promise, on both servers."""

from __future__ import annotations

import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import QueueMachine

QUICK = settings(
    max_examples=120,
    stateful_step_count=50,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # no shrinking: the long run does it
    suppress_health_check=list(HealthCheck),
)
LONG = settings(
    QUICK,
    max_examples=400,
    stateful_step_count=80,
    derandomize=False,
    print_blob=True,
    phases=[Phase.generate, Phase.shrink],
)


def run(client: redis.Redis, how: settings) -> None:
    machine = type("Queue", (QueueMachine,), {"client": client})
    run_state_machine_as_test(machine, settings=how)


def test_a_short_life_of_a_queue_keeps_every_promise(client: redis.Redis) -> None:
    run(client, QUICK)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(1_800)
def test_many_long_lives_of_a_queue_keep_every_promise(client: redis.Redis) -> None:
    run(client, LONG)
