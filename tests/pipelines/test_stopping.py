"""Flows that are cancelled, run out of time, and are taken up again where they failed."""

from __future__ import annotations

import threading
import time
from typing import Any

import dramatiq
import pytest
from dramatiq import Message

from broker import JobCancelled, StreamsBroker
from broker.flow_step import FlowOutcome
from pipelines import flows
from pipelines.flow import Flow, chain
from tests.conftest import StartWorker
from tests.contract.recording import Seen
from tests.waiting import PATIENCE_S, eventually, wait_for

TIMEOUT_MS = int(PATIENCE_S * 1000)


class Slow:
    """Actors of which one waits until it is told to go on, and tells how it ended."""

    def __init__(self) -> None:
        self.seen = Seen()
        self.begun = threading.Event()
        self.may_end = threading.Event()
        seen = self.seen

        @dramatiq.actor(queue_name="home")
        def quick(*given: Any) -> str:
            return "quick"

        @dramatiq.actor(queue_name="home", max_retries=0)
        def slow(*given: Any) -> None:
            self.begun.set()
            try:
                # In steps: an exception raised into the thread waits for Python code to run.
                while not self.may_end.wait(0.02):
                    pass
            except JobCancelled:
                seen.add("interrupted")
                raise

        @dramatiq.actor(queue_name="away")
        def note(*given: Any) -> None:
            seen.add(given)

        self.quick, self.slow, self.note = quick, slow, note


@pytest.fixture
def slow(broker: StreamsBroker) -> Slow:
    return Slow()


def test_a_cancelled_flow_ends_at_once_what_waits_and_soon_what_runs_and_undoes_the_rest(
    broker: StreamsBroker, slow: Slow, start_worker: StartWorker
) -> None:
    flow = Flow("c").step("quick", slow.quick.message(), undo=slow.note.message("undo"))
    flow.step("slow", slow.slow.message(), after="quick")
    later = slow.note.message_with_options(args=("later",), delay=60_000)
    flow.step("later", later, after="quick").step("never", slow.note.message(), after="slow")
    flow.on_failure(slow.note.message("failure"))
    start_worker(broker)
    flow_id = flows.start(flow)
    wait_for(slow.begun, "the slow step")
    eventually(
        lambda: broker.inspector.queue("away").scheduled, lambda n: n == 1, what="the later step"
    )
    assert flows.cancel(flow_id)
    record = flows.wait(flow_id, TIMEOUT_MS)
    assert record.state == "cancelled"
    states = {step.name: step.state for step in record.steps}
    assert states == {
        "quick": "completed",
        "slow": "cancelled",
        "later": "cancelled",
        "never": "skipped",
        "undo quick": "completed",
        "on_failure": states["on_failure"],  # it may run still
    }
    told = slow.seen.take(3)
    assert told[:2] == ["interrupted", ("undo", "quick")]
    assert FlowOutcome(**told[2][1]).state == "cancelled"
    assert not flows.cancel(flow_id)
    assert broker.inspector.queue("away").scheduled == 0


def test_a_flow_nobody_works_on_is_cancelled_when_the_call_returns(
    broker: StreamsBroker, slow: Slow
) -> None:
    flow_id = flows.start(chain("c", [slow.quick.message(), slow.note.message()]))
    assert flows.cancel(flow_id)
    record = flows.get(flow_id)
    assert record is not None
    assert record.state == "cancelled"
    assert (broker.inspector.size("home"), broker.inspector.size("away")) == (0, 0)
    assert not flows.cancel("home.unknown")


def test_steps_without_records_that_wait_are_cancelled_when_a_worker_takes_them(
    broker: StreamsBroker, slow: Slow, start_worker: StartWorker
) -> None:
    notes = [slow.note.message_with_options(args=(n,), records=False) for n in range(3)]
    flow_id = flows.start(chain("c", notes, slow.note.message()))
    assert flows.cancel(flow_id)
    start_worker(broker)
    record = flows.wait(flow_id, TIMEOUT_MS)
    assert [(step.state, step.done) for step in record.steps] == [("cancelled", 0), ("skipped", 0)]
    assert record.state == "cancelled"
    assert slow.seen.nothing_more(0.1)


def test_steps_without_records_that_run_are_interrupted_by_cancelling_their_flow(
    broker: StreamsBroker, slow: Slow, start_worker: StartWorker
) -> None:
    message = slow.slow.message_with_options(args=(), records=False)
    flow_id = flows.start(chain("c", [message] * 5))
    start_worker(broker)
    wait_for(slow.begun, "a slow step")
    assert flows.cancel(flow_id)
    record = flows.wait(flow_id, TIMEOUT_MS)
    assert (record.state, record.steps[0].done) == ("cancelled", 0)
    assert slow.seen.next() == "interrupted"


def test_a_flow_ends_when_its_time_is_over(
    broker: StreamsBroker, slow: Slow, start_worker: StartWorker
) -> None:
    flow = Flow("limited", time_limit=600).step("slow", slow.slow.message())
    flow.step("never", slow.note.message(), after="slow")
    start_worker(broker)
    started = time.monotonic()
    flow_id = flows.start(flow)
    record = flows.wait(flow_id, TIMEOUT_MS)
    assert 0.6 <= time.monotonic() - started < 5
    assert record.state == "timed_out"
    assert record.step("slow").state == "cancelled"
    assert slow.seen.next() == "interrupted"
    broker.join("away", timeout=TIMEOUT_MS)
    assert slow.seen.nothing_more(0.1)


def test_a_step_that_waits_longer_than_the_flow_may_last_ends_with_it(
    broker: StreamsBroker, slow: Slow, start_worker: StartWorker
) -> None:
    later = slow.note.message_with_options(args=(), delay=60_000)
    flow = Flow("limited", time_limit=700).step("quick", slow.quick.message())
    start_worker(broker)
    flow_id = flows.start(flow.step("later", later, after="quick"))
    assert flows.wait(flow_id, TIMEOUT_MS).state == "timed_out"
    assert broker.inspector.size("away") == 0


def failing(broker: StreamsBroker, seen: Seen, *, undo: bool = False) -> Flow:
    """A flow of which two steps fail until they are mended."""

    @dramatiq.actor(queue_name="home")
    def first() -> int:
        seen.add("first")
        return 1

    @dramatiq.actor(queue_name="home", max_retries=0)
    def mended(given: int, mend: bool) -> int:
        if not broker.client.exists(f"{broker.namespace}:mended"):
            raise ValueError("broken")
        return given + 1

    @dramatiq.actor(queue_name="away", max_retries=0)
    def mended_away(given: int) -> int:
        return mended(given, True) + 10

    @dramatiq.actor(queue_name="home")
    def last(given: list[int]) -> None:
        seen.add(given)

    undone = first.message_with_options(pipe_ignore=True) if undo else None
    flow = Flow("mended").step("first", first.message(), undo=undone)
    flow.step("home", mended.message_with_options(kwargs={"mend": True}), after="first")
    flow.step("away", mended_away.message_with_options(), after="first")
    return flow.step("last", last.message_with_options(), after=["home", "away"])


def test_a_failed_flow_is_resumed_from_the_steps_that_failed(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    seen = Seen()
    flow = failing(broker, seen)
    start_worker(broker)
    flow_id = flows.start(flow)
    record = flows.wait(flow_id, TIMEOUT_MS)
    assert record.state == "failed"
    assert {record.step(name).state for name in ("home", "away")} == {"failed"}
    broker.client.set(f"{broker.namespace}:mended", 1)
    assert flows.resume(flow_id) == 2
    resumed = eventually(
        lambda: flows.get(flow_id),
        lambda found: found is not None and found.state == "completed",
        what="the resumed flow",
    )
    assert seen.take(2) == ["first", [2, 12]]
    assert seen.nothing_more(0.1)
    assert resumed is not None
    assert {step.state for step in resumed.steps} == {"completed"}
    assert flows.resume(flow_id) == 0
    assert [broker.inspector.queue(name).dead for name in ("home", "away")] == [0, 0]


def test_a_failed_flow_is_resumed_from_another_queues_dead_letters(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    is_mended = threading.Event()

    @dramatiq.actor(queue_name="home", max_retries=0, dead_queue="graveyard")
    def mended() -> None:
        if not is_mended.is_set():
            raise ValueError("broken")

    start_worker(broker)
    flow_id = flows.start(chain("f", [mended.message(), mended.message()]))
    assert flows.wait(flow_id, TIMEOUT_MS).state == "failed"
    eventually(
        lambda: [broker.inspector.queue(name).dead for name in ("home", "graveyard")],
        lambda dead: dead == [0, 2],
        what="the letters in the other queue",
    )
    is_mended.set()
    assert flows.resume(flow_id) == 2
    eventually(
        lambda: flows.get(flow_id),
        lambda found: found is not None and found.state == "completed",
        what="the resumed flow",
    )
    assert broker.inspector.queue("graveyard").dead == 0


def test_a_redrive_by_an_operator_resumes_the_flow_as_well(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    seen = Seen()
    flow_id = flows.start(failing(broker, seen))
    start_worker(broker)
    assert flows.wait(flow_id, TIMEOUT_MS).state == "failed"
    broker.client.set(f"{broker.namespace}:mended", 1)
    for queue in ("home", "away"):
        assert broker.inspector.redrive(queue) == 1
    assert seen.take(2) == ["first", [2, 12]]


def test_a_flow_that_was_undone_is_not_resumed(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    seen = Seen()
    flow_id = flows.start(failing(broker, seen, undo=True))
    start_worker(broker)
    record = flows.wait(flow_id, TIMEOUT_MS)
    assert (record.state, record.step("undo first").state) == ("failed", "completed")
    broker.client.set(f"{broker.namespace}:mended", 1)
    assert flows.resume(flow_id) == 0
    assert broker.inspector.redrive("home") == 1
    broker.join("home", timeout=TIMEOUT_MS)
    assert flows.get(flow_id) == record
    assert seen.take(2) == ["first", "first"]
    assert seen.nothing_more(0.1)


class Mended:
    """An actor that fails until it is mended, and tells then what it was given."""

    def __init__(self) -> None:
        self.seen = Seen()
        self.is_mended = threading.Event()

        @dramatiq.actor(queue_name="home")
        def made() -> str:
            return "made"

        @dramatiq.actor(queue_name="away", max_retries=0)
        def mended(name: str, *given: Any) -> None:
            if not self.is_mended.is_set():
                raise ValueError("broken")
            self.seen.add((name, *given))

        @dramatiq.actor(queue_name="home", max_retries=0)
        def fail(*given: Any) -> None:
            raise ValueError("on purpose")

        self.made, self.mended, self.fail = made, mended, fail

    def message(self, name: str) -> Message[None]:
        return self.mended.message_with_options(args=(name,))


def test_what_undoes_and_hooks_of_a_failed_flow_run_when_they_are_redriven(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    steps = Mended()
    flow = Flow("f").step("made", steps.made.message(), undo=steps.message("undo"))
    flow.step("fail", steps.fail.message(), after="made").on_failure(steps.message("hook"))
    start_worker(broker)
    flow_id = flows.start(flow)
    assert flows.wait(flow_id, TIMEOUT_MS).state == "failed"
    eventually(lambda: broker.inspector.queue("away").dead, lambda n: n == 2, what="both letters")
    steps.is_mended.set()
    assert broker.inspector.redrive("away") == 2
    undone, told = sorted(steps.seen.take(2), reverse=True)
    assert undone == ("undo", "made")
    assert FlowOutcome(**told[1]).state == "failed"
    record = eventually(
        lambda: flows.get(flow_id),
        lambda found: found is not None and not any(each.failed for each in found.steps[2:]),
        what="the ends of both",
    )
    assert record is not None
    assert record.state == "failed"
    assert [(each.state, each.done) for each in record.steps[2:]] == [("completed", 1)] * 2


@pytest.mark.parametrize("policy", ["continue", "ignore"])
@pytest.mark.parametrize("undone", [False, True])
def test_a_redriven_step_that_did_not_stop_its_failed_flow_runs_for_itself_unless_that_was_undone(
    broker: StreamsBroker, start_worker: StartWorker, policy: Any, undone: bool
) -> None:
    steps = Mended()
    undo = steps.made.message_with_options(pipe_ignore=True) if undone else None
    flow = Flow("f").step("may fail", steps.message("step"), policy=policy)
    flow.step(
        "made", steps.made.message_with_options(pipe_ignore=True), after="may fail", undo=undo
    )
    flow.step("fail", steps.fail.message(), after="made")
    start_worker(broker)
    flow_id = flows.start(flow)
    record = flows.wait(flow_id, TIMEOUT_MS)
    assert record.state == "failed"
    steps.is_mended.set()
    assert broker.inspector.redrive("away") == 1
    broker.join("away", timeout=TIMEOUT_MS)
    assert flows.get(flow_id) == record
    if undone:
        assert steps.seen.nothing_more(0.1)
    else:
        assert steps.seen.next() == ("step",)
