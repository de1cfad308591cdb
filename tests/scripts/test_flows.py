"""The scripts of flows: a message's end is counted once, and what waits for it is released."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import redis
from dramatiq import Message

from broker import entry, packing
from broker.courier import deliver
from broker.flow_commands import Beginning, Begun, FlowCommands, NewFlow
from broker.flow_step import OPTION
from broker.outbox import Letter, Place
from pipelines.flow import Flow, chain
from pipelines.plan import Plan, home_of
from pipelines.state import FlowRecord, read

LEVELS = 3
pack = msgspec.msgpack.encode


def message(actor: str = "a", *, queue: str = "home", **options: Any) -> Message[Any]:
    return Message(queue, actor, (), {}, options)


class Started:
    """A flow in a server without workers: its test says how its messages end."""

    def __init__(self, client: Any, runner: Any, namespace: str, flow: Flow) -> None:
        self.client = client
        self.commands = FlowCommands(runner, namespace, LEVELS - 1)
        self.home = home_of(flow)
        self.plan = Plan(flow, f"{self.home}.flow")
        self.key = self.commands.keys(self.home).flow_prefix + self.plan.id
        self.messages = list(self.plan.messages(self.key))
        self.new = NewFlow(
            self.plan.id,
            self.home,
            flow.time_limit or 0,
            roots=pack(self.plan.roots),
            hooks=pack(self.plan.hooks),
            about=pack(["name", flow.name]),
            steps=[step.packed() for step in self.plan.steps],
            messages=[self._packed(each) for each in self.messages],
        )
        self.letters = self.commands.start(self.new)

    def _packed(self, message: Message[Any]) -> bytes:
        queue = "" if message.queue_name == self.home else message.queue_name
        place, options = message.options[OPTION]["at"], message.options
        level, delay = options.get("broker_priority", 0), options.get("delay", 0)
        fields = entry.encode(message)
        return packing.pack_array((place, queue, message.message_id, level, delay, True, fields))

    def place(self, number: int) -> Place:
        return Place.parse(self.commands.namespace, self.messages[number].options[OPTION]["at"])

    def end(
        self, number: int, state: str = "completed", result: str = "", error: str = ""
    ) -> list[Letter]:
        """Tell the end of a message; the letters that this writes."""
        return self.commands.advance(self.place(number), pack([state, result, error]))

    def begin(self, number: int, given: list[tuple[int, int]], *, always: bool) -> Begun:
        (begun,) = self.commands.begin(self.home, [Beginning(self.place(number), given, always)])
        return begun

    def deliver(self, letters: list[Letter]) -> None:
        deliver(self.commands, self.home, letters)

    def ready(self, queue: str = "home") -> list[int]:
        """The numbers of the messages that are ready, the lowest level first."""
        entries = [
            fields
            for stream in self.commands.keys(queue).ready
            for _, fields in self.client.xrange(stream)
        ]
        return [int(fields[b"id"].rpartition(b"-")[2]) for fields in entries]

    def outbox(self, queue: str = "home") -> int:
        return int(self.client.xlen(self.commands.keys(queue).outbox))

    def record(self) -> FlowRecord:
        found = read(self.plan.id, self.commands.find(self.home, self.plan.id))
        assert found is not None
        return found

    def states(self) -> dict[str, str]:
        return {step.name: step.state for step in self.record().steps}


class Start:
    def __init__(self, client: Any, runner: Any, namespace: str) -> None:
        self._client = client
        self._runner = runner
        self._namespace = namespace

    def __call__(self, flow: Flow) -> Started:
        return Started(self._client, self._runner, self._namespace, flow)


@pytest.fixture
def start(client: redis.Redis, runner: redis.Redis, namespace: str) -> Start:
    return Start(client, runner, namespace)


def diamond(**options: Any) -> Flow:
    flow = Flow("diamond").step("top", message())
    flow.step("left", message(**options), after="top").step("right", message(), after="top")
    return flow.step("bottom", message(), after=["left", "right"])


def test_a_chain_goes_on_in_the_script_that_counts_the_end(start: Start) -> None:
    flow = start(chain("c", message(), message("b"), message("c")))
    assert flow.ready() == [0]
    for number in (0, 1):
        assert flow.end(number, result=str(number)) == []
        assert flow.ready() == list(range(number + 2))
    assert flow.record().state == "running"
    flow.end(2)
    record = flow.record()
    assert record.state == "completed"
    assert record.finished_at is not None
    assert {step.state for step in record.steps} == {"completed"}
    assert flow.outbox() == 0


def test_an_end_told_again_changes_nothing(start: Start) -> None:
    flow = start(chain("c", message(), message("b")))
    flow.end(0, result="1")
    before = flow.record()
    assert flow.end(0, result="2") == []
    assert flow.end(0, "dead", error="late") == []
    assert flow.record() == before
    assert flow.ready() == [0, 1]
    assert flow.commands.results("home", flow.plan.id, 0, 1) == [b"1"]


def test_a_start_told_again_changes_nothing(start: Start) -> None:
    flow = start(diamond())
    flow.end(0)
    before = flow.record()
    assert flow.commands.start(flow.new) == []
    assert flow.record() == before
    assert flow.ready() == [0, 1, 2]


def test_a_join_waits_for_all_it_comes_after(start: Start) -> None:
    flow = start(diamond())
    flow.end(0)
    flow.end(2)
    assert flow.states()["bottom"] == "waiting"
    flow.end(1)
    assert flow.ready() == [0, 1, 2, 3]


def test_a_record_names_the_place_of_its_message(start: Start) -> None:
    flow = start(chain("c", message()))
    record = flow.client.hgetall(flow.commands.keys("home").job_prefix + f"{flow.plan.id}-0")
    assert record[b"flow"].decode() == f"{flow.key}/1/0"
    assert Place.parse(flow.commands.namespace, record[b"flow"].decode()) == flow.place(0)


def test_a_failure_releases_nothing_more_and_the_flow_ends_with_what_is_under_way(
    start: Start,
) -> None:
    flow = start(diamond())
    flow.end(0)
    flow.end(1, "dead", error="ValueError: no")
    record = flow.record()
    assert (record.state, record.failed_step, record.error) == (
        *("stopping", "left"),
        "ValueError: no",
    )
    flow.end(2)
    assert flow.record().state == "failed"
    assert flow.states() == {
        "top": "completed",
        "left": "failed",
        "right": "completed",
        "bottom": "skipped",
    }
    assert flow.record().step("left").errors == {1: "ValueError: no"}


@pytest.mark.parametrize(("policy", "state"), [("continue", "failed"), ("ignore", "completed")])
def test_a_failure_that_does_not_stop_the_flow(start: Start, policy: Any, state: str) -> None:
    flow = Flow("f").step("a", message(), policy=policy).step("b", message(), after="a")
    started = start(flow)
    started.end(0, "dead", error="no")
    assert started.ready() == [0, 1]
    started.end(1)
    record = started.record()
    assert record.state == state
    assert record.error == ("no" if policy == "continue" else None)


def test_hooks_are_sent_at_the_end_as_it_was(start: Start) -> None:
    def hooked() -> Flow:
        flow = chain("f", message())
        return flow.on_success(message("s")).on_failure(message("f")).on_finish(message("e"))

    well = start(hooked())
    well.end(0)
    assert well.ready() == [0, 1, 3]
    well.end(1)
    well.end(3, "dead", error="its own trouble")
    assert well.record().state == "completed"
    assert well.states()["on_finish"] == "failed"
    assert well.states()["on_failure"] == "skipped"


def test_a_failed_flow_undoes_what_was_done_last_first_and_then_ends(start: Start) -> None:
    flow = Flow("f").step("a", message(), undo=message("undo"))
    flow.parallel("b", [message(), message()], after="a", undo=[message("u"), message("u")])
    flow.step("c", message(), after="b").on_finish(message("end"))
    started = start(flow)
    for number in (0, 2, 1):
        started.end(number, result='"x"')
    started.end(3, "dead", error="no")
    assert started.record().state == "compensating"
    order = []
    for _ in range(3):
        order.append(started.ready()[-1])
        started.end(order[-1], "completed" if len(order) != 2 else "dead")
    assert order == [5, 6, 4]
    assert started.record().state == "failed"
    assert started.ready()[-1] == 7
    undone = [started.record().step(name).state for name in ("undo a", "undo b")]
    assert undone == ["completed", "failed"]


def test_a_redriven_step_takes_the_flow_up_where_it_failed(start: Start) -> None:
    flow = start(diamond().on_failure(message("f")).on_success(message("s")))
    flow.end(0)
    flow.end(1, "dead", error="no")
    flow.end(2)
    assert flow.record().state == "failed"
    assert flow.ready() == [0, 1, 2, 5]
    flow.end(1, result="7")
    record = flow.record()
    assert (record.state, record.failed_step, record.finished_at) == ("running", None, None)
    assert flow.ready() == [0, 1, 2, 5, 3]
    assert flow.client.ttl(flow.key) == -1
    flow.end(3)
    assert flow.record().state == "completed"
    entries = flow.client.xrange(flow.commands.keys("home").ready[0])
    assert entries[-1][1][b"id"].decode() == f"{flow.plan.id}-4.2", "the second end's hook"


@pytest.mark.parametrize("policy", ["ignore", "continue"])
def test_a_failure_that_stops_no_flow_is_passed_on_when_the_flow_is_taken_up(
    start: Start, policy: Any
) -> None:
    flow = Flow("f").step("stops", message()).step("may fail", message(), policy=policy)
    started = start(flow.step("join", message(), after=["stops", "may fail"]))
    started.end(0, "dead", error="no")
    started.end(1, "dead", error="nor this")
    assert started.record().state == "failed"
    started.end(0)
    assert started.ready() == [0, 1, 2]
    started.end(2)
    assert started.record().state == {"ignore": "completed", "continue": "failed"}[policy]


def test_a_second_failure_of_two_keeps_a_flow_from_being_taken_up(start: Start) -> None:
    flow = start(diamond())
    flow.end(0)
    flow.end(1, "dead", error="no")
    flow.end(2, "dead", error="nor this")
    flow.end(1)
    assert flow.record().state == "failed"
    flow.end(2)
    assert flow.record().state == "running"
    assert flow.ready() == [0, 1, 2, 3]


def test_steps_of_other_queues_go_by_letters_that_stay_until_they_are_delivered(
    start: Start,
) -> None:
    flow = start(chain("c", message(), message(queue="away", broker_priority=2), message()))
    letters = flow.end(0)
    assert [letter.kind for letter in letters] == ["send"]
    assert flow.outbox() == 1
    for _ in range(2):
        flow.deliver(letters)
        assert flow.ready("away") == [1]
    assert flow.outbox() == 0
    assert flow.client.xlen(flow.commands.keys("away").ready[2]) == 1


def test_a_step_with_a_delay_is_scheduled(start: Start) -> None:
    flow = start(chain("c", message(delay=60_000, broker_priority=1)))
    flow.deliver(flow.letters)
    flow.deliver(flow.letters)
    k = flow.commands.keys("home")
    assert flow.client.zrange(k.scheduled, 0, -1) == [f"{flow.plan.id}-0".encode()]
    (packed,) = flow.client.hvals(k.scheduled_messages)
    assert packing.unpack(packed)[-2:] == [b"level", b"1"]


def test_a_large_step_is_sent_part_by_part_and_only_once(start: Start) -> None:
    flow = start(chain("c", [message() for _ in range(1200)], message("b")))
    assert [letter.kind for letter in flow.letters] == ["release"]
    left, _ = flow.commands.release("home", flow.plan.id, 1)
    assert (left, len(flow.ready())) == (700, 500)
    for _ in range(2):
        flow.deliver(flow.letters)
        assert flow.ready() == list(range(1200))
    assert flow.outbox() == 0
    for number in range(1200):
        flow.end(number, result=str(number))
    assert flow.ready()[-1] == 1200
    assert flow.record().step("a").done == 1200


@pytest.mark.parametrize("why", ["failed", "cancelled"])
def test_of_a_large_step_the_rest_is_not_sent_when_the_flow_has_stopped(
    start: Start, why: str
) -> None:
    flow = start(chain("c", [message() for _ in range(1200)], message("b")))
    flow.commands.release("home", flow.plan.id, 1)
    if why == "cancelled":
        flow.commands.stop("home", flow.plan.id, "cancelled")
    flow.end(0, "dead", error="no")
    for _ in range(2):
        flow.deliver(flow.letters)
        assert len(flow.ready()) == 500
    for number in range(1, 500):
        flow.end(number)
    assert (flow.record().state, flow.states()["a"]) == (why, "failed")
    may_run, letters = flow.commands.reopen(flow.place(0))
    assert may_run is (why == "failed")
    if may_run:  # the rest had only been held back
        assert flow.record().state == "running"
        flow.deliver(letters)
        assert len(flow.ready()) == 1200
        for number in (0, *range(500, 1200)):
            flow.end(number)
        assert flow.ready()[-1] == 1200


def test_a_stopped_flow_ends_when_nothing_is_under_way(start: Start) -> None:
    flow = start(diamond())
    assert flow.commands.stop("home", flow.plan.id, "cancelled") == (True, [])
    assert flow.commands.stop("home", flow.plan.id, "cancelled") == (True, [])
    assert flow.commands.stop("home", flow.plan.id, "timed_out") == (False, [])
    flow.end(0)
    assert flow.record().state == "cancelled"
    assert flow.states()["left"] == "skipped"
    assert flow.commands.stop("home", flow.plan.id, "cancelled") == (False, [])


def test_a_step_begins_with_what_it_is_given_unless_the_flow_has_stopped(start: Start) -> None:
    flow = start(diamond())
    flow.end(0)
    flow.end(1, result="[1]")
    begun = flow.begin(3, [(0, 1), (1, 2)], always=False)
    assert begun == Begun("running", True, None, [None, b"[1]", None])
    assert flow.record().step("bottom").started_at is not None
    flow.commands.stop("home", flow.plan.id, "cancelled")
    begun = flow.begin(2, [(0, 1)], always=False)
    assert begun == Begun("stopping", False, None, [])
    assert flow.record().step("right").started_at is None
    begun = flow.begin(2, [(0, 1)], always=True)
    assert begun == Begun("stopping", True, None, [None])
    forgotten = Place("home", "home.other", 1, 0)
    assert flow.commands.begin("home", [Beginning(forgotten, [], True)]) == [
        Begun("", False, None, [])
    ]


def test_a_flow_out_of_time_stops_at_the_next_begin(start: Start) -> None:
    flow = Flow("f", time_limit=60_000).step("a", message())
    started = start(flow)
    begun = started.begin(0, [], always=False)
    assert begun.may_run
    assert 0 < (begun.ms_left or 0) <= 60_000
    ((id, due),) = started.commands.deadlines("home", 10)
    assert id == started.plan.id
    assert due == started.record().deadline_at
    started.client.hset(started.key, "deadline", "1")
    begun = started.begin(0, [], always=False)
    assert begun == Begun("stopping", False, 0, [])
    started.end(0, "cancelled")
    assert started.record().state == "timed_out"
    assert started.commands.stop("home", id, "timed_out")[0] is False
    assert started.commands.deadlines("home", 10) == []


def test_everything_of_a_flow_that_has_ended_expires(start: Start) -> None:
    flow = start(chain("c", message(), message("b")).on_failure(message()))
    flow.end(0, result="1")
    flow.end(1, "dead", error="no")
    flow.end(2)
    names = list(flow.client.scan_iter(match=f"{glob(flow.key)}*"))
    assert len(names) >= 5
    assert all(flow.client.ttl(name) > 0 for name in names)


def glob(key: str) -> str:
    return key.replace("{", "[{]").replace("}", "[}]")


def test_ends_of_a_forgotten_flow_are_passed_over(start: Start) -> None:
    flow = start(chain("c", message(), message("b")))
    flow.client.delete(flow.key)
    assert flow.end(0) == []
    assert flow.ready() == [0]


def test_a_redriven_message_may_run_again_before_its_end_is_known(start: Start) -> None:
    flow = start(diamond())
    flow.end(0)
    flow.end(1, "dead", error="no")
    flow.end(2, "dead", error="nor this")
    assert flow.record().state == "failed"
    assert flow.commands.reopen(flow.place(1)) == (True, [])
    assert flow.commands.reopen(flow.place(1)) == (True, []), "its worker was killed"
    assert (flow.record().state, flow.record().step("left").state) == ("failed", "running")
    assert flow.commands.reopen(flow.place(2)) == (True, [])
    assert flow.record().state == "running"
    flow.end(1, "dead", error="again")
    flow.end(2)
    assert flow.record().error == "again"
    assert flow.commands.reopen(flow.place(1)) == (True, [])
    flow.end(1)
    assert flow.ready()[-1] == 3


@pytest.mark.parametrize("why", ["cancelled", "undone", "forgotten"])
def test_a_flow_that_cant_go_on_is_not_taken_up(start: Start, why: str) -> None:
    flow = Flow("f").step("a", message(), undo=message() if why == "undone" else None)
    flow.step("b", message(), after="a")
    started = start(flow.step("c", message(), after="a"))
    started.end(0)
    if why == "cancelled":
        started.commands.stop("home", started.plan.id, "cancelled")
    started.end(1, "dead", error="no")
    started.end(2)
    if why == "undone":
        started.end(3)
    elif why == "forgotten":
        started.client.delete(started.key)
    before = started.commands.find("home", started.plan.id)
    assert started.commands.reopen(started.place(1)) == (False, [])
    started.end(1)
    assert started.commands.find("home", started.plan.id) == before


def test_a_redriven_step_without_which_its_flow_goes_on_may_run_and_changes_nothing(
    start: Start,
) -> None:
    flow = Flow("f").step("a", message(), policy="ignore").step("b", message(), policy="continue")
    started = start(flow.step("c", message()))
    for number in range(3):
        started.end(number, "dead", error="no")
    before = started.commands.find("home", started.plan.id)
    for number in (0, 1):
        assert started.commands.reopen(started.place(number)) == (True, [])
        started.end(number, result="1")
    assert started.commands.find("home", started.plan.id) == before


def test_what_a_step_is_given_goes_with_it_when_it_is_little(start: Start) -> None:
    flow = start(chain("c", [message(), message()], message("b"), message("c")))
    flow.end(0, result="1")
    flow.end(1)
    flow.end(2, result='"' + 5_000 * "x" + '"')
    entries = flow.client.xrange(flow.commands.keys("home").ready[0])
    given = [fields.get(b"given") for _, fields in entries]
    assert given == [packing.pack_array(each) for each in ((), (), ("1", ""))] + [None]


def test_of_a_flow_with_a_time_limit_each_step_asks(start: Start) -> None:
    flow = start(chain("c", message(), time_limit=60_000))
    ((_, fields),) = flow.client.xrange(flow.commands.keys("home").ready[0])
    assert b"given" not in fields
