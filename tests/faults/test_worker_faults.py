"""Rows 1, 3, 4, 6, 10 and 13: workers that are killed, frozen and stopped."""

from __future__ import annotations

import os
import signal

import pytest

from broker import StreamsBroker
from tests.applications import Effects
from tests.faults.conftest import LEASE_MS, SWEEP_MS, Source
from tests.faults.history import History
from tests.processes import Launcher
from tests.waiting import eventually

TAKEOVER_S = (LEASE_MS + SWEEP_MS) / 1000 + 1

HOLD = """
@dramatiq.actor(queue_name="work")
def hold(label):
    first = first_time(label)
    note("started", label)
    if first:
        wait_for_permission(label)
    note("done", label)
"""


def test_01_a_job_whose_worker_is_killed_runs_again_after_the_lease(
    launch: Launcher, source: Source, history: History, effects: Effects
) -> None:
    victim = launch(source(HOLD), threads=1)
    victim.wait_until_ready()
    history.send("hold", "job")
    first = effects.next("started")
    survivor = launch(source(HOLD), threads=1)
    survivor.wait_until_ready()
    history.injure()
    victim.kill_everything()
    second = effects.next("started")
    assert history.recovered() <= TAKEOVER_S
    assert second.pid != first.pid
    effects.next("done")
    history.settle_down()
    history.check(failures=1)


def test_01_a_restart_on_the_same_host_does_not_wait_for_the_lease(
    launch: Launcher, source: Source, history: History, effects: Effects
) -> None:
    patient = source(HOLD, heartbeat_timeout=60_000)
    victim = launch(patient, threads=1)
    victim.wait_until_ready()
    history.send("hold", "job")
    effects.next("started")
    history.injure()
    victim.kill_everything()
    launch(patient, threads=1).wait_until_ready()
    effects.next("done", timeout_s=5)
    history.recovered()
    history.settle_down()
    history.check(failures=1)


KILLED_AROUND = """
class Killer(Middleware):
    def strike(self, moment, message):
        if message.args == ("kill " + moment,) and first_time("kill"):
            note("killing", moment)
            os.kill(os.getpid(), signal.SIGKILL)

    def before_ack(self, broker, message):
        self.strike("before_ack", message)

    def after_ack(self, broker, message):
        self.strike("after_ack", message)

    def before_nack(self, broker, message):
        self.strike("before_nack", message)

    def after_nack(self, broker, message):
        self.strike("after_nack", message)


broker.add_middleware(Killer())


@dramatiq.actor(queue_name="work", max_retries=1, min_backoff=300, max_backoff=300)
def twice(label):
    note("started", label)
    current = CurrentMessage.get_current_message()
    if not current.options.get("retries"):
        raise RuntimeError("the first attempt always fails")
    note("done", label)


@dramatiq.actor(queue_name="work", max_retries=0)
def fail(label):
    note("started", label)
    raise RuntimeError("on purpose")
"""


@pytest.mark.parametrize("moment", ["before_ack", "after_ack"])
def test_03_a_worker_killed_around_a_retrys_settlement_leaves_one_successor(
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    moment: str,
) -> None:
    victim = launch(source(KILLED_AROUND), threads=1)
    victim.wait_until_ready()
    message_id = history.send("twice", f"kill {moment}")
    effects.next("killing")
    history.injure()
    victim.wait()
    copies = history.places().all
    assert copies == {message_id: 1}, "the job and its successor are one"
    launch(source(KILLED_AROUND), threads=1)
    effects.next("done")
    history.recovered()
    history.settle_down()
    history.check(failures=1, expected_runs=2)
    assert history.places().all == {}


@pytest.mark.parametrize("moment", ["before_nack", "after_nack"])
def test_04_a_worker_killed_at_a_burial_leaves_the_message_in_exactly_one_place(
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    producer: StreamsBroker,
    moment: str,
) -> None:
    victim = launch(source(KILLED_AROUND), threads=1)
    victim.wait_until_ready()
    message_id = history.send("fail", f"kill {moment}")
    effects.next("killing")
    history.injure()
    victim.wait()
    now = history.places()
    assert now.all == {message_id: 1}
    assert [message_id] in (now.in_flight, now.dead)
    launch(source(KILLED_AROUND), threads=1)
    eventually(lambda: history.places().dead, lambda dead: dead == [message_id], what="the burial")
    history.recovered()
    history.settle_down()
    history.check(failures=1)
    (letter,) = producer.inspector.dead("work")
    assert letter.reason == "failed"


FREEZE = """
@dramatiq.actor(queue_name="work")
def hold(label):
    note("started", label)
    wait_for_permission(str(os.getpid()))
    note("done", label)
"""


def test_06_a_worker_frozen_beyond_its_lease_is_fenced_off(
    launch: Launcher, source: Source, history: History, effects: Effects
) -> None:
    frozen = launch(source(FREEZE), threads=1)
    (frozen_pid,) = frozen.wait_until_ready()
    message_id = history.send("hold", "job")
    assert effects.next("started").pid == frozen_pid
    history.injure()
    os.kill(frozen_pid, signal.SIGSTOP)
    rescuer = launch(source(FREEZE), threads=1)
    (rescuer_pid,) = rescuer.wait_until_ready()
    assert effects.next("started").pid == rescuer_pid
    history.recovered()
    # The frozen worker awakes while its job runs elsewhere, and finishes it too early.
    os.kill(frozen_pid, signal.SIGCONT)
    effects.permit(str(frozen_pid))
    assert effects.next("done").pid == frozen_pid
    frozen.wait_for_log(r"(?i)lease|fenced|stale")
    assert history.places().in_flight == [message_id], "the rescuer's delivery was taken from it"
    effects.permit(str(rescuer_pid))
    assert effects.next("done").pid == rescuer_pid
    history.settle_down()
    # It is a healthy worker again.
    effects.permit(str(frozen_pid), 10)
    effects.permit(str(rescuer_pid), 10)
    for number in range(4):
        history.send("hold", f"after {number}")
    effects.take(4, "done")
    history.settle_down()
    history.check(failures=1)


def test_06_a_worker_that_awakes_after_the_job_was_finished_elsewhere_changes_nothing(
    launch: Launcher, source: Source, history: History, effects: Effects
) -> None:
    frozen = launch(source(FREEZE), threads=1)
    (frozen_pid,) = frozen.wait_until_ready()
    history.send("hold", "job")
    effects.next("started")
    history.injure()
    os.kill(frozen_pid, signal.SIGSTOP)
    rescuer = launch(source(FREEZE), threads=1)
    (rescuer_pid,) = rescuer.wait_until_ready()
    effects.permit(str(rescuer_pid))
    effects.next("done")
    history.recovered()
    history.settle_down()
    os.kill(frozen_pid, signal.SIGCONT)
    effects.permit(str(frozen_pid))
    assert effects.next("done").pid == frozen_pid
    assert frozen.terminate() == 0
    history.settle_down()
    history.check(failures=1)


SHORT = """
@dramatiq.actor(queue_name="work")
def short(label):
    note("started", label)
    time.sleep(0.005)
    note("done", label)
"""


def test_10_sigterm_with_short_jobs_repeats_none_and_exits_in_time(
    launch: Launcher, source: Source, history: History, effects: Effects
) -> None:
    # A lease that can't run out here: whatever runs again was not handed back.
    stopped = launch(source(SHORT, heartbeat_timeout=60_000), processes=2, threads=4)
    stopped.wait_until_ready()
    count = 1000
    for number in range(count):
        history.send("short", str(number))
    effects.take(50, "done")
    history.injure()
    assert stopped.terminate(timeout_s=10) == 0
    assert history.places().in_flight == []
    launch(source(SHORT, heartbeat_timeout=60_000), threads=8)
    history.settle_down()
    history.check(failures=0)
    assert len(history.finished()) == count


POISON = """
@dramatiq.actor(queue_name="work")
def poison(label):
    note("started", label)
    os._exit(9)


@dramatiq.actor(queue_name="work")
def innocent(label):
    note("started", label)
    note("done", label)
"""


def test_13_a_job_that_kills_its_worker_is_buried_and_its_neighbours_are_not(
    launch: Launcher, source: Source, history: History, effects: Effects, producer: StreamsBroker
) -> None:
    for number in range(5):
        history.send("innocent", f"before {number}")
    killer = history.send("poison", "poison")
    innocents = [history.send("innocent", f"after {number}") for number in range(10)]
    # A supervisor restarts what has died, until nothing dies any more.
    for _ in range(10):
        worker = launch(source(POISON), threads=2)
        outcome = eventually(
            lambda worker=worker: (worker.ended, producer.inspector.queue("work").dead),  # type: ignore[misc]
            lambda seen: seen[0] or seen[1] > 0,
            what="the worker's death or the burial",
        )
        if outcome[1]:
            break
        history.injure()
    history.settle_down()
    (letter,) = producer.inspector.dead("work")
    assert letter.reason == "max_deliveries"
    assert letter.deliveries == 5
    assert letter.message is not None
    assert letter.message.message_id == killer
    assert set(innocents) <= history.finished()
    runs = history.executions()
    assert runs[killer] == 5
    history.check(failures=5)
