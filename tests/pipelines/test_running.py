"""Flows run by a worker: what is handed on, what fires at the end, what a failure does."""

from __future__ import annotations

from typing import Any

import dramatiq
import msgspec
import pytest
from dramatiq import Message
from dramatiq.middleware import Retries

from broker import InvalidOption, QueueClosed, StreamsBroker
from broker.embedded import EmbeddedValkey
from broker.flow_step import FlowOutcome
from middleware.correlation import Correlation, correlation, current_correlation_id
from middleware.flows import Flows
from pipelines import flows
from pipelines.flow import Flow, InvalidFlow, chain
from pipelines.flows import FlowTimeout, FlowUnknown
from tests.conftest import NewBroker, StartWorker
from tests.contract.recording import Seen
from tests.waiting import PATIENCE_S

TIMEOUT_MS = int(PATIENCE_S * 1000)


class Steps:
    """Actors on two queues."""

    def __init__(self) -> None:
        self.seen = Seen()
        seen = self.seen

        @dramatiq.actor(queue_name="home")
        def add(x: int, y: int = 0) -> int:
            return x + y

        @dramatiq.actor(queue_name="away")
        def double(x: int) -> int:
            return 2 * x

        @dramatiq.actor(queue_name="home")
        def total(given: list[Any]) -> Any:
            seen.add(given)
            return given

        @dramatiq.actor(queue_name="home", max_retries=0)
        def fail(*_given: Any) -> None:
            raise ValueError("on purpose")

        @dramatiq.actor(queue_name="home")
        def note(*given: Any) -> Any:
            seen.add(given)
            return given[-1] if given else None

        self.add, self.double, self.total, self.fail, self.note = add, double, total, fail, note

    def message(self, actor: Any, *args: Any, **options: Any) -> Message[Any]:
        made: Message[Any] = actor.message_with_options(args=args, **options)
        return made


@pytest.fixture
def steps(broker: StreamsBroker) -> Steps:
    return Steps()


def test_a_closed_queue_takes_no_new_flow_but_that_of_a_job(
    broker: StreamsBroker, steps: Steps, start_worker: StartWorker
) -> None:
    def flow() -> Flow:
        return chain("late", steps.message(steps.add, 1))

    @dramatiq.actor(queue_name="away")
    def begin() -> None:
        steps.seen.add(flows.start(flow()))

    broker.commands.register("home")
    broker.inspector.close("home")
    with pytest.raises(QueueClosed):
        flows.start(flow())
    assert broker.inspector.queue("home").ready == 0
    begin.send()
    start_worker(broker)
    assert flows.wait(steps.seen.next(), TIMEOUT_MS).state == "completed"


def test_results_are_handed_on_over_queues(
    broker: StreamsBroker, steps: Steps, start_worker: StartWorker
) -> None:
    m = steps.message
    flow = chain(
        "sum",
        m(steps.add, 1),
        m(steps.double),
        [m(steps.add, 10), m(steps.add, 20)],
        m(steps.total),
        m(steps.note, "last"),
    )
    start_worker(broker)
    flow_id = flows.start(flow)
    record = flows.wait(flow_id, TIMEOUT_MS)
    assert record.state == "completed"
    assert steps.seen.take(2) == [[12, 22], ("last", [12, 22])]
    assert flows.results(flow_id, "add-2") == [12, 22]
    assert [step.state for step in record.steps] == ["completed"] * 5
    for step in record.steps:
        assert step.released_at is not None
        assert step.run_ms is not None
    broker.join("home", timeout=TIMEOUT_MS)
    assert broker.client.xlen(broker.flows.keys("away").outbox) == 0


def test_a_join_is_given_what_its_steps_returned_each_as_its_step_is(
    broker: StreamsBroker, steps: Steps, start_worker: StartWorker
) -> None:
    m = steps.message
    flow = Flow("join").step("one", m(steps.add, 1)).step("none", m(steps.note))
    flow.parallel("list", [m(steps.double)], after="one")
    flow.step("other", m(steps.add, 5, pipe_ignore=True), after="one")
    flow.step("all", m(steps.total), after=["list", "none", "other"])
    start_worker(broker)
    assert flows.wait(flows.start(flow), TIMEOUT_MS).state == "completed"
    assert steps.seen.take(2) == [(), [[2], None, 5]]


def test_results_are_validated_against_the_types_of_the_step_that_gets_them(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    # Dramatiq's own actors get plain JSON types; the application's jobs check and build theirs.
    seen = Seen()

    @dramatiq.actor(queue_name="home")
    def found() -> FlowOutcome:
        return FlowOutcome("i", "n", "failed", error="\N{SKULL} 9007199254740993")

    @dramatiq.actor(queue_name="home")
    def took(given: dict[str, Any]) -> None:
        seen.add(msgspec.convert(given, FlowOutcome))

    start_worker(broker)
    flow = chain("typed", found.message(), took.message_with_options())
    assert flows.wait(flows.start(flow), TIMEOUT_MS).state == "completed"
    assert seen.next() == FlowOutcome("i", "n", "failed", None, "\N{SKULL} 9007199254740993")


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_hooks_are_told_how_the_flow_ended(
    broker: StreamsBroker, steps: Steps, start_worker: StartWorker, ends: str
) -> None:
    m = steps.message
    flow = chain("told", m(steps.add, 1), m(steps.add if ends == "well" else steps.fail))
    flow.on_success(m(steps.note, "success")).on_failure(m(steps.note, "failure"))
    flow.on_finish(m(steps.note, "finish"))
    start_worker(broker)
    flow_id = flows.start(flow)
    state = "completed" if ends == "well" else "failed"
    assert flows.wait(flow_id, TIMEOUT_MS).state == state
    told = dict(steps.seen.take(2))
    assert set(told) == {"success" if ends == "well" else "failure", "finish"}
    outcome = msgspec.convert(told["finish"], FlowOutcome)
    failed = (None, None) if ends == "well" else ("fail", "ValueError: on purpose")
    assert outcome == FlowOutcome(flow_id, "told", state, *failed)


def test_a_failing_step_is_retried_before_the_flow_hears_of_it(
    broker: StreamsBroker, steps: Steps, start_worker: StartWorker
) -> None:
    attempts: list[int] = []

    @dramatiq.actor(queue_name="home", max_retries=2, min_backoff=10)
    def third_time(given: int) -> int:
        attempts.append(given)
        if len(attempts) < 3:
            raise RuntimeError("not yet")
        return given + 1

    flow = chain("retried", steps.message(steps.add, 1), third_time.message_with_options())
    start_worker(broker)
    flow_id = flows.start(flow)
    assert flows.wait(flow_id, TIMEOUT_MS).state == "completed"
    assert attempts == [1, 1, 1]
    assert flows.results(flow_id, "third_time") == [2]


def test_after_a_failure_what_was_sent_runs_and_nothing_that_comes_after_it(
    broker: StreamsBroker, steps: Steps, start_worker: StartWorker
) -> None:
    m = steps.message
    branches = [m(steps.fail), *(m(steps.note, number) for number in range(5))]
    flow_id = flows.start(chain("stopped", branches, m(steps.note, "never")))
    start_worker(broker, threads=1)
    record = flows.wait(flow_id, TIMEOUT_MS)
    assert (record.state, record.failed_step) == ("failed", "fail")
    assert record.error == "ValueError: on purpose"
    assert (record.step("fail").done, record.step("fail").failed) == (5, 1)
    assert len(steps.seen.take(5)) == 5
    assert steps.seen.nothing_more(0.1)
    assert record.step("note").state == "skipped"


def test_what_was_done_is_undone_with_the_results_at_hand(
    broker: StreamsBroker, steps: Steps, start_worker: StartWorker
) -> None:
    m = steps.message
    flow = Flow("undone").step("a", m(steps.add, 1), undo=m(steps.note, "undo a"))
    undo = [m(steps.note, "undo b"), m(steps.note, "undo b")]
    flow.parallel("b", [m(steps.add, 10), m(steps.double)], after="a", undo=undo)
    flow.step("c", m(steps.fail), after="b", undo=m(steps.note, "never"))
    flow.on_finish(m(steps.note, "finish", pipe_ignore=True))
    start_worker(broker)
    flow_id = flows.start(flow)
    assert flows.wait(flow_id, TIMEOUT_MS).state == "failed"
    *undone, last, finish = steps.seen.take(4)
    assert sorted(undone) == [("undo b", 2), ("undo b", 11)]
    assert (last, finish) == (("undo a", 1), ("finish",))


@pytest.mark.parametrize("result", [object(), "x" * 5_000], ids=["no JSON", "too large"])
def test_a_result_that_cant_be_handed_on_is_a_failure(
    server: EmbeddedValkey, new_broker: NewBroker, start_worker: StartWorker, result: object
) -> None:
    broker = new_broker("streams", server.url, max_message_bytes=4_000)
    broker.add_middleware(Flows())

    @dramatiq.actor(queue_name="home")
    def give() -> object:
        return result

    start_worker(broker)
    flow_id = flows.start(chain("bad", give.message(), give.message()))
    record = flows.wait(flow_id, TIMEOUT_MS)
    assert (record.state, record.failed_step) == ("failed", "give")
    expected = "JSON" if result != "x" * 5_000 else "5002 bytes encoded, the limit is 4000"
    assert expected in str(record.error)


def test_a_step_of_a_forgotten_flow_is_buried(
    broker: StreamsBroker, steps: Steps, start_worker: StartWorker
) -> None:
    # It asks for its flow, since that has a time limit.
    flow_id = flows.start(chain("gone", steps.message(steps.note), time_limit=60_000))
    broker.client.delete(broker.flows.keys("home").flow_prefix + flow_id)
    start_worker(broker)
    broker.join("home", timeout=TIMEOUT_MS)
    (letter,) = broker.inspector.dead("home")
    assert letter.reason == "expired"
    assert steps.seen.nothing_more(0.1)


def test_every_message_belongs_to_the_callers_chain(
    broker: StreamsBroker, steps: Steps, start_worker: StartWorker
) -> None:
    chains: list[str | None] = []

    @dramatiq.actor(queue_name="home")
    def note_chain(*_given: Any) -> None:
        chains.append(current_correlation_id())

    broker.add_middleware(Correlation(), before=Retries)
    m = steps.message
    flow = chain("chained", m(note_chain), [m(note_chain), m(note_chain)]).on_finish(m(note_chain))
    with correlation("request-17"):
        flow_id = flows.start(flow)
    start_worker(broker)
    record = flows.wait(flow_id, TIMEOUT_MS)
    broker.join("home", timeout=TIMEOUT_MS)
    assert chains == ["request-17"] * 4
    assert record.correlation_id == "request-17"


def test_who_waits_is_told_what_there_is_and_what_there_is_not(
    broker: StreamsBroker, steps: Steps
) -> None:
    flow_id = flows.start(chain("never", steps.message(steps.note)))
    with pytest.raises(FlowTimeout, match="is running after a wait of 50 ms") as raised:
        flows.wait(flow_id, 50)
    assert raised.value.record.step("note").state == "running"
    assert flows.get("home.unknown") is None
    with pytest.raises(FlowUnknown, match="no flow 'home.unknown'"):
        flows.wait("home.unknown")
    with pytest.raises(KeyError):
        flows.results(flow_id, "other")


@pytest.mark.parametrize("delay", ["5", True, float("inf"), 10**30])
def test_nothing_is_started_of_a_flow_with_a_delay_that_is_none(
    broker: StreamsBroker, steps: Steps, delay: object
) -> None:
    m = steps.message
    with pytest.raises(InvalidOption, match="delay"):
        flows.start(chain("bad", m(steps.note), m(steps.note, delay=delay)))
    assert broker.inspector.size("home") == 0
    assert list(broker.client.scan_iter(match=f"*{broker.namespace}:home*flow*")) == []


@pytest.mark.parametrize("delay", [None, -5, 0.5])
def test_a_step_whose_delay_is_over_runs_at_once(
    broker: StreamsBroker, steps: Steps, start_worker: StartWorker, delay: object
) -> None:
    start_worker(broker)
    flow_id = flows.start(chain("now", steps.message(steps.note, delay=delay)))
    assert flows.wait(flow_id, TIMEOUT_MS).state == "completed"


def test_nothing_is_started_of_a_flow_without_steps_or_with_a_wrong_option(
    broker: StreamsBroker, steps: Steps
) -> None:
    with pytest.raises(InvalidFlow, match="steps: must be at least one"):
        flows.start(Flow("empty"))
    m = steps.message
    with pytest.raises(InvalidOption, match="broker_priority"):
        flows.start(chain("bad", m(steps.note), m(steps.note, broker_priority=99)))
    assert broker.inspector.size("home") == 0
    assert list(broker.client.scan_iter(match=f"*{broker.namespace}:home*flow*")) == []
