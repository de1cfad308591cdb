"""Row 59: who holds a place under a limit is killed."""

from __future__ import annotations

import itertools
import time

import pytest

from broker import StreamsBroker
from tests.applications import Effects
from tests.faults.conftest import LEASE_MS, SWEEP_MS, Source, valkey_only
from tests.faults.history import History
from tests.faults.proxy import Proxy
from tests.faults.test_network_faults import digest
from tests.faults.test_network_faults import loaded as loaded
from tests.processes import Launcher
from tests.waiting import eventually, wait_for

BODY = """
from broker import Rate
from middleware.rate_limits import RateLimits

broker.add_middleware(RateLimits())


@dramatiq.actor(queue_name="work", concurrency_key="host", concurrency=1)
def exclusive(label):
    alone = label == "first" and first_time("first")
    note("started", label)
    if alone:
        wait_for_permission("never")
    note("done", label)


@dramatiq.actor(queue_name="work", rate_key="host", rate=Rate(1, per_ms=1_000))
def rated(label):
    alone = label == "first" and first_time("first")
    note("started", label)
    if alone:
        wait_for_permission("never")
    note("done", label)


@dramatiq.actor(queue_name="work")
def free(label):
    note("started", label)
    note("free", label)
    note("done", label)
"""


@valkey_only
def test_59_a_killed_holders_slot_is_free_within_the_lease_and_scheduled_jobs_go_on(
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    producer: StreamsBroker,
) -> None:
    # One job at a time, so that the victim takes no other one with it.
    victim = launch(source(BODY, concurrency={"work": 1}), threads=1)
    victim.wait_until_ready()
    history.send("exclusive", "first")
    effects.next("started", label="first")
    launch(source(BODY), threads=1).wait_until_ready()
    for label in ("second", "third"):
        history.send("exclusive", label)
    eventually(lambda: producer.inspector.queue("work").scheduled, lambda n: n == 2, what="parking")
    history.send("free", "due meanwhile", delay=200)
    history.injure()
    victim.kill_everything()
    killed_s = time.monotonic()
    assert effects.next("free").at_s - killed_s < 0.9 * LEASE_MS / 1000
    labels = [effect.label for effect in effects.take(4, "done")]
    assert history.recovered() <= (LEASE_MS + SWEEP_MS) / 1000 + 1
    assert sorted(labels) == ["due meanwhile", "first", "second", "third"]
    history.settle_down()
    history.check(failures=1)


@valkey_only
def test_59_a_start_that_died_with_its_worker_counts_and_its_job_starts_again(
    launch: Launcher, source: Source, history: History, effects: Effects
) -> None:
    victim = launch(source(BODY, concurrency={"work": 1}), threads=1)
    victim.wait_until_ready()
    for label in ("first", "second"):
        history.send("rated", label)
    starts = [effects.next("started", label="first")]
    history.injure()
    victim.kill_everything()
    launch(source(BODY), threads=1).wait_until_ready()
    starts += effects.take(2, "started")
    history.recovered()
    for before, after in itertools.pairwise(starts):
        assert after.at_s - before.at_s > 0.95  # read a little later than noted
    history.settle_down()
    history.check(failures=1)


@valkey_only
@pytest.mark.usefixtures("loaded")
def test_59_a_start_that_was_granted_and_not_answered_takes_its_slot_over(
    launch: Launcher, source: Source, history: History, effects: Effects, proxy: Proxy
) -> None:
    # A lease of a minute: the job that comes back does not wait for its own slot to expire.
    worker = launch(source(BODY, url=proxy.url, heartbeat_timeout=60_000), threads=1)
    worker.wait_until_ready()
    cut = proxy.cut(digest("start"), share=0.5)
    history.send("exclusive", "second")
    wait_for(cut.happened, "the cut")
    history.injure()
    history.send("exclusive", "third")
    effects.take(2, "done")
    assert history.recovered() < 3
    history.settle_down()
    history.check(failures=0)
