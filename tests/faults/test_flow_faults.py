"""Flows whose workers are killed at every step, in every moment of a step."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from dramatiq import Message

from broker import StreamsBroker
from pipelines import flows
from pipelines.flow import Flow
from pipelines.state import FlowRecord
from tests.applications import Effects
from tests.faults.conftest import Source, valkey_only
from tests.processes import CommandLine, Launcher
from tests.waiting import PATIENCE_S, eventually

pytestmark = valkey_only

APPLICATION = """
from broker.flow_commands import FlowCommands
from middleware.flows import Flows

broker.add_middleware(Flows())
MOMENT = {moment!r}
#: Steps by their messages, from their beginning until they are settled.
begun = {{}}


def die(moment, name):
    if moment == MOMENT and first_time(moment + name):
        note("killed", name)
        for other in set(begun.copy().values()) - {{name}}:
            note("hit as well", other)
        os.kill(os.getpid(), signal.SIGKILL)


class Killer(Middleware):
    def before_process_message(self, broker, message):
        begun[message.message_id] = message.kwargs["name"]

    def after_process_message(self, broker, message, *, result=None, exception=None):
        die("before it is settled", message.kwargs["name"])

    def after_ack(self, broker, message):
        die("while it is settled", message.kwargs["name"])

    def after_settle(self, broker, queue, settlements, replies, seconds):
        for settlement in settlements:
            die("after it was settled", settlement.message_id)
            begun.pop(settlement.message_id, None)


broker.add_middleware(Killer())


def step(*given, name):
    die("in the job", name)
    note("done", name)
    die("after the effect", name)
    return name


@dramatiq.actor(queue_name="home")
def here(*given, name):
    return step(*given, name=name)


@dramatiq.actor(queue_name="away")
def there(*given, name):
    return step(*given, name=name)


def dying(method):
    carry_out = getattr(FlowCommands, method)

    def carried_out(self, *args):
        die("before a letter is delivered", method + repr(args))
        done = carry_out(self, *args)
        die("before a delivered letter is dropped", method + repr(args))
        return done

    setattr(FlowCommands, method, carried_out)


for method in ("receive", "advance"):
    dying(method)
"""

#: The moments in which each step kills its worker once; the last two kill it at each letter.
MOMENTS = (
    "in the job",
    "after the effect",
    "before it is settled",
    "while it is settled",
    "after it was settled",
    "before a letter is delivered",
    "before a delivered letter is dropped",
)


def message(actor: str, name: str) -> Message[Any]:
    queue = "home" if actor == "here" else "away"
    return Message(queue, actor, (), {"name": name}, {})


def diamond() -> Flow:
    """Each kind of step after each kind of step: beside its flow and in another queue, a join."""
    flow = Flow("diamond").step("top", message("here", "top"))
    flow.step("left", message("there", "left"), after="top")
    flow.parallel("right", [message("here", "r0"), message("there", "r1")], after="top")
    flow.step("bottom", message("here", "bottom"), after=["left", "right"])
    return flow.on_finish(message("there", "end"))


STEPS = {"top", "left", "r0", "r1", "bottom", "end"}


class Restarted:
    """Worker processes as a supervisor keeps them: started again whenever they die."""

    def __init__(self, launch: Launcher, source: str) -> None:
        self._launch = launch
        self._source = source
        self._running: CommandLine | None = None

    def keep_alive(self) -> None:
        if self._running is None or self._running.ended:
            # The main process waits so long for one that was killed before it was ready.
            hurry = "--worker-fork-timeout=2000"
            self._running = self._launch(self._source, hurry, threads=1)


def see_through(producer: StreamsBroker, flow_id: str, workers: Restarted) -> FlowRecord:
    """The record once the flow has ended, its hooks have, and every letter is delivered."""

    def look() -> tuple[FlowRecord, int]:
        workers.keep_alive()
        record = flows.get(flow_id, broker=producer)
        assert record is not None
        outboxes = [producer.flows.keys(queue).outbox for queue in ("home", "away")]
        return record, sum(producer.client.xlen(outbox) for outbox in outboxes)

    def over(seen: tuple[FlowRecord, int]) -> bool:
        record, letters = seen
        ended = [step.ended_at is not None for step in record.steps]
        return record.final and all(ended) and letters == 0

    return eventually(look, over, timeout_s=4 * PATIENCE_S, what="the flow's end")[0]


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_flow_finishes_though_each_of_its_steps_kills_its_worker(
    launch: Launcher, source: Source, producer: StreamsBroker, effects: Effects, moment: str
) -> None:
    workers = Restarted(launch, source(APPLICATION.format(moment=moment)))
    flow_id = flows.start(diamond(), broker=producer)
    record = see_through(producer, flow_id, workers)
    assert record.state == "completed"
    assert all((step.done, step.failed) == (step.size, 0) for step in record.steps)
    assert flows.results(flow_id, "right", broker=producer) == ["r0", "r1"]
    seen = effects.catch_up()
    done = Counter(effect.label for effect in seen if effect.event == "done")
    killed = Counter(effect.label for effect in seen if effect.event == "killed")
    assert set(done) == STEPS
    # Nothing is released twice: steps run once more for a kill that hit them, and for nothing else.
    hit = [effect.label for effect in seen if effect.event == "hit as well"]
    assert sum(done.values()) <= len(STEPS) + len(killed) + len(hit)
    if moment in ("after the effect", "before it is settled", "while it is settled"):
        assert set(killed) == STEPS
    else:
        assert len(killed) >= 5
    for queue in ("home", "away"):
        assert producer.inspector.size(queue) == 0
