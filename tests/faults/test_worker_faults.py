"""Rows 1 to 8, 10 to 14, 16 and 17: workers that are killed, frozen and stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from tests.applications import Effects
from tests.faults.conftest import LEASE_MS, SWEEP_MS, Source, valkey_only
from tests.faults.history import History
from tests.faults.signals import frozen
from tests.processes import ROOT, CommandLine, Launcher
from tests.waiting import PATIENCE_S, eventually

TAKEOVER_S = (LEASE_MS + SWEEP_MS) / 1000 + 1
#: Time that has to pass without anything to wait for, by this clock only.
QUIET = threading.Event()

PREFETCH_16 = {"dramatiq_queue_prefetch": "16"}

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


@dramatiq.actor(queue_name="work")
def once(label):
    note("started", label)
    note("done", label)


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
def test_02_a_worker_killed_after_the_effect_repeats_it_once_and_it_is_finished_once(
    launch: Launcher, source: Source, history: History, effects: Effects, moment: str
) -> None:
    victim = launch(source(KILLED_AROUND), threads=1)
    victim.wait_until_ready()
    history.send("once", f"kill {moment}")
    effects.next("done")
    effects.next("killing")
    history.injure()
    victim.wait()
    launch(source(KILLED_AROUND), threads=1).wait_until_ready()
    history.settle_down()
    history.recovered()
    history.check(failures=1)


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
    assert letter.reason == "retries_exhausted"


NOTICED = """
class Killing(Middleware):
    def before_enqueue(self, broker, message, delay):
        self.kill(message, "before the notice is sent on")

    def after_enqueue(self, broker, message, delay):
        self.kill(message, "after the notice is sent on")

    def kill(self, message, moment):
        if message.queue_name == "notices" and first_time(moment):
            note("killing")
            os.kill(os.getpid(), signal.SIGKILL)


broker.add_middleware(Killing())


@dramatiq.actor(queue_name="work", max_retries=0, on_dead="tell")
def fail(label):
    note("started", label)
    raise RuntimeError("on purpose")


@dramatiq.actor(queue_name="notices")
def tell(notice):
    note("told", notice["id"])
"""


@valkey_only
def test_04_a_notice_of_a_death_comes_once_whenever_the_workers_that_carry_it_are_killed(
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    producer: StreamsBroker,
) -> None:
    message_id = history.send("fail", "killed carriers")
    producer.declare_queue("notices")
    for _ in range(2):
        carrier = launch(source(NOTICED), threads=1)
        effects.next("killing")
        history.injure()
        carrier.wait()
        assert history.places().dead == [message_id]
        assert history.places().all.total() == 2, "the notice stays where the message died"
    launch(source(NOTICED), threads=1)
    assert effects.next("told").label == message_id
    history.recovered()
    history.settle_down()
    producer.join("notices", timeout=20_000)
    told = [effect for effect in effects.catch_up() if effect.event == "told"]
    assert len(told) == 1
    history.check(failures=0)


def test_05_what_a_killed_worker_had_fetched_and_not_begun_comes_back_as_well(
    launch: Launcher, source: Source, history: History, effects: Effects, producer: StreamsBroker
) -> None:
    fetched = 16
    victim = launch(source(HOLD), threads=1, environment=PREFETCH_16)
    victim.wait_until_ready()
    begun = history.send("hold", "begun")
    effects.next("started")
    waiting = history.send_many("hold", [f"waits {number}" for number in range(fetched - 1)])
    eventually(
        lambda: len(history.places().in_flight), lambda held: held == fetched, what="the prefetch"
    )
    survivor = launch(source(HOLD), threads=4)
    survivor.wait_until_ready()
    history.injure()
    victim.kill_everything()
    effects.permit("begun")
    for label in range(fetched - 1):
        effects.permit(f"waits {label}")
    started = effects.take(fetched, "started", timeout_s=TAKEOVER_S + 1)
    assert {effect.message_id for effect in started} == {begun, *waiting}
    assert history.recovered() <= TAKEOVER_S
    history.settle_down()
    runs = history.executions()
    assert [runs[message_id] for message_id in waiting] == [1] * len(waiting)
    history.check(failures=1)


AHEAD = """
from broker import ahead


class Still:
    @staticmethod
    def monotonic():
        return 0.0


ahead.time = Still  # whatever runs is short, on every machine


@dramatiq.actor(queue_name="work")
def short(label):
    note("started", label)
    note("done", label)
    if broker.inspector.queue("work").in_flight > 50 and first_time("struck"):
        note("struck", os.getpid())
        os.kill(os.getpid(), signal.{signal})
"""


@pytest.mark.parametrize("strike", [signal.SIGKILL, signal.SIGSTOP], ids=lambda s: s.name)
def test_05_short_jobs_that_a_killed_or_frozen_worker_has_taken_ahead_come_back_as_well(
    launch: Launcher, source: Source, history: History, effects: Effects, strike: signal.Signals
) -> None:
    sent = history.send_many("short", range(300))
    victim = launch(source(AHEAD.format(signal=strike.name)), threads=1)
    struck = int(effects.next("struck").label)
    history.injure()
    if strike is signal.SIGKILL:
        victim.wait()
    held = history.places().in_flight
    assert len(held) > 50, "no more than the prefetch, which is 2"
    launch(source(AHEAD.format(signal=strike.name)), threads=1).wait_until_ready()
    history.settle_down()
    history.recovered()
    assert history.finished() == set(sent)
    if strike is signal.SIGSTOP:
        os.kill(struck, signal.SIGCONT)
        victim.wait_for_log("fenced off")
        assert victim.terminate() == 0
    repeated = [id for id, runs in history.executions().items() if runs > 1]
    assert set(repeated) <= set(held)
    assert history.places().all == {}
    history.check(failures=1)


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


@valkey_only
def test_07_a_worker_frozen_for_less_than_its_lease_keeps_what_it_has(
    launch: Launcher, source: Source, history: History, effects: Effects
) -> None:
    lease_ms = 3000
    worker = launch(source(FREEZE, heartbeat_timeout=lease_ms), threads=1)
    (pid,) = worker.wait_until_ready()
    history.send("hold", "job")
    effects.next("started")
    vulture = launch(source(FREEZE, heartbeat_timeout=lease_ms), threads=1)
    vulture.wait_until_ready()
    with frozen(pid):
        history.injure()
        QUIET.wait(lease_ms / 1000 * 0.5)
    effects.permit(str(pid))
    assert effects.next("done").pid == pid
    history.recovered()
    history.settle_down()
    assert "eclaimed" not in vulture.log
    assert "fenced" not in worker.log
    history.check(failures=0)


DYING_THREADS = """
from broker.commands import Commands


def dies_when_told(name):
    real = getattr(Commands, name)

    def command(*args, **kwargs):
        # Only the thread is told to end, as a bug in C could do to it; not the process.
        if threading.current_thread().name.startswith("headrace-") and armed(name):
            note("dying", name)
            raise SystemExit
        return real(*args, **kwargs)

    setattr(Commands, name, command)


def armed(name):
    return own.lpop(NAMESPACE + ":kill:" + name)


dies_when_told("renew")
dies_when_told("settle")


@dramatiq.actor(queue_name="work")
def hold(label):
    note("started", label)
    wait_for_permission(label)
    note("done", label)
"""


@valkey_only
def test_08_a_keeper_that_died_alone_is_started_again_and_the_leases_hold(
    launch: Launcher, source: Source, history: History, effects: Effects
) -> None:
    worker = launch(source(DYING_THREADS), threads=1)
    (pid,) = worker.wait_until_ready()
    history.send("hold", "job")
    effects.next("started")
    vulture = launch(source(HOLD), threads=1)
    vulture.wait_until_ready()
    history.injure()
    effects.arm("renew")
    effects.next("dying")
    worker.wait_for_log("The keeper's thread has died; it is started again")
    history.recovered()
    # Long enough for the vulture, had nobody renewed.
    QUIET.wait((LEASE_MS + SWEEP_MS) / 1000)
    effects.permit("job")
    assert effects.next("done").pid == pid
    history.settle_down()
    history.check(failures=0)


@valkey_only
def test_08_a_settler_that_died_alone_is_started_again_and_only_its_batch_is_repeated(
    launch: Launcher, source: Source, history: History, effects: Effects
) -> None:
    worker = launch(source(DYING_THREADS), threads=1)
    worker.wait_until_ready()
    history.injure()
    effects.arm("settle")
    for label in ("first", "second"):
        effects.permit(label, 2)
        history.send("hold", label)
    effects.next("dying")
    worker.wait_for_log("The settler's thread has died; it is started again")
    history.settle_down()
    history.recovered()
    assert history.finished() == set(history.acknowledged)
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


LONG = """
@dramatiq.actor(queue_name="work", notify_shutdown={notify})
def hold(label):
    note("started", label)
    if first_time(label):
        while True:
            time.sleep(0.01)
    note("done", label)
"""


@valkey_only
@pytest.mark.parametrize("notify", [False, True], ids=["unaware", "notified"])
def test_11_a_job_longer_than_the_grace_is_handed_back_at_once_and_no_attempt_is_used_up(
    launch: Launcher, source: Source, history: History, effects: Effects, notify: bool
) -> None:
    # A lease that can't run out here: whoever runs it next was given it.
    module = source(LONG.format(notify=notify), heartbeat_timeout=60_000)
    grace = ["--worker-shutdown-timeout", "500"]
    worker = launch(module, *grace, threads=1)
    worker.wait_until_ready()
    message_id = history.send("hold", "job")
    effects.next("started")
    history.injure()
    assert worker.terminate(timeout_s=5) == 0
    assert history.deliveries() == {message_id: 0}, "the interrupted delivery counts for nothing"
    launch(module, *grace, threads=1).wait_until_ready()
    effects.next("done", timeout_s=5)
    history.recovered()
    history.settle_down()
    history.check(failures=1)


#: Grace for the jobs, Dramatiq's look at its flag, the flush of settlements, and some room.
EXIT_S = 0.5 + 1 + 5 + 3


@valkey_only
@pytest.mark.parametrize("away", ["gone", pytest.param("silent", marks=pytest.mark.slow)])
def test_12_sigterm_while_the_server_is_away_ends_the_worker_within_its_grace(
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    durable: EmbeddedValkey,
    away: str,
) -> None:
    module = source(HOLD)
    worker = launch(module, "--worker-shutdown-timeout", "500", threads=2)
    worker.wait_until_ready()
    history.send_many("hold", ["ends", "goes on"])
    effects.take(2, "started")
    history.injure()
    if away == "gone":
        durable.kill()
    else:
        durable.pause()
    # A settlement that can't be written, beside a job that does not end.
    effects.permit("ends")
    effects.next("done", label="ends")
    began = time.monotonic()
    assert worker.terminate(timeout_s=EXIT_S) == 0
    assert time.monotonic() - began <= EXIT_S
    if away == "gone":
        durable.start()
    else:
        durable.cont()
    history.injure()
    launch(module, threads=2).wait_until_ready()
    effects.next("done", label="goes on")
    history.recovered()
    history.settle_down()
    history.check(failures=1)


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
        if not _dies(worker, producer):
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


def _dies(worker: CommandLine, producer: StreamsBroker) -> bool:
    """Wait until the worker has died of the poison, or has buried it."""
    died, _ = eventually(
        lambda: (worker.ended, producer.inspector.queue("work").dead),
        lambda seen: seen[0] or seen[1] > 0,
        timeout_s=2 * PATIENCE_S,  # five starts one after the other
        what="the worker's death or the burial",
    )
    return died


def test_14_poison_in_a_prefetch_of_16_takes_none_of_the_innocents_along(
    launch: Launcher, source: Source, history: History, producer: StreamsBroker
) -> None:
    killer = history.send("poison", "poison")
    innocents = history.send_many("innocent", range(15))
    # One thread, so the killer is always first and the innocents die unseen beside it.
    for _ in range(10):
        worker = launch(source(POISON), threads=1, environment=PREFETCH_16)
        if not _dies(worker, producer):
            break
        history.injure()
    history.settle_down()
    history.recovered()
    (letter,) = producer.inspector.dead("work")
    assert letter.message is not None
    assert letter.message.message_id == killer
    assert letter.reason == "max_deliveries"
    assert set(innocents) == history.finished()
    history.check(failures=5)


FORKING = """
import os, sys
from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from dramatiq import Message

broker = StreamsBroker(url={url!r}, namespace={namespace!r})
broker.declare_queue("work")


def work(who):
    for number in range(200):
        asked = f"{{who}}-{{number}}".encode()
        answer = broker.client.echo(asked)
        if answer != asked:
            sys.exit(f"{{who}} asked for {{asked!r}} and got {{answer!r}}")
        sent = broker.enqueue(Message("work", "short", (asked.decode(),), {{}}, {{}}))
        os.write(1, f"{{sent.message_id}}\\n".encode())  # one write, so that lines don't mix


work("before")  # the connections exist, and are in use after the fork as well
children = []
for child in range(4):
    pid = os.fork()
    if not pid:
        work(f"child {{child}}")
        os._exit(0)
    children.append(pid)
work("parent")
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
sys.exit(max(codes))
"""


def test_16_a_client_from_before_a_fork_gets_nobody_elses_replies(
    launch: Launcher,
    source: Source,
    history: History,
    hurt: EmbeddedValkey,
    namespace: str,
) -> None:
    history.injure(4)
    program = FORKING.format(url=hurt.url, namespace=namespace)
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    sent = ended.stdout.split()
    assert len(sent) == len(set(sent)) == 6 * 200, "an enqueue got another one's reply"
    history.acknowledge(sent)
    launch(source(SHORT), processes=2, threads=4)
    history.settle_down()
    assert history.finished() == set(sent)
    history.check(failures=0)


def test_17_every_process_has_a_consumers_name_of_its_own(
    launch: Launcher, source: Source, history: History, producer: StreamsBroker
) -> None:
    workers = [launch(source(SHORT), processes=2, threads=1) for _ in range(2)]
    for worker in workers:
        worker.wait_until_ready()
    history.send_many("short", range(200))
    history.settle_down()
    stream = f"{{{producer.namespace}:work}}:ready:0"
    rows: Any = producer.client.xinfo_consumers(stream, "workers")
    names = {row["name"] for row in rows} - {b"~released"}
    assert len(names) == 4
    history.check(failures=0)


NAMESAKES = """
from broker.consumer_name import ConsumerName

ConsumerName.of_this_process = classmethod(lambda cls: cls("host", "0", 1, "1", 1))
ConsumerName.vanished = lambda self, here: False
"""


def test_17_namesakes_are_told_apart_by_the_delivery_and_fenced_off(
    launch: Launcher, source: Source, history: History, effects: Effects
) -> None:
    first = launch(source(NAMESAKES + FREEZE), threads=1)
    (first_pid,) = first.wait_until_ready()
    message_id = history.send("hold", "job")
    effects.next("started")
    with frozen(first_pid):
        history.injure()
        second = launch(source(NAMESAKES + FREEZE), threads=1)
        (second_pid,) = second.wait_until_ready()
        assert effects.next("started").pid == second_pid
    history.recovered()
    effects.permit(str(first_pid))
    assert effects.next("done").pid == first_pid
    first.wait_for_log("fenced off")
    assert history.places().in_flight == [message_id], "the namesake's delivery was settled"
    effects.permit(str(second_pid))
    assert effects.next("done").pid == second_pid
    history.settle_down()
    history.check(failures=1)
