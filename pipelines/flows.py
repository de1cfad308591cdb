"""Start flows, look at them, wait for them, stop them and take them up again."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from secrets import token_hex
from typing import Any

import dramatiq
import msgspec
from dramatiq import Message
from dramatiq.errors import BrokerConnectionError

from broker import StreamsBroker, entry, packing
from broker.courier import deliver
from broker.errors import HeadraceError
from broker.flow_commands import NewFlow
from broker.flow_step import OPTION
from broker.new_message import NewMessage
from broker.outbox import Letter
from broker.producer import whole_ms
from broker.stopping import stop
from middleware.correlation import OPTION as CORRELATION
from middleware.correlation import current_correlation_id
from pipelines import state
from pipelines.flow import Flow, InvalidFlow
from pipelines.plan import Plan, home_of
from pipelines.state import FlowRecord

_log = logging.getLogger(__name__)
_pack = msgspec.msgpack.Encoder().encode


class FlowUnknown(HeadraceError, LookupError):
    """There is no such flow, or it is forgotten."""

    def __init__(self, flow_id: str) -> None:
        super().__init__(f"flow_id: no flow {flow_id!r}")


class FlowTimeout(HeadraceError, TimeoutError):
    """A flow did not end in time; it goes on."""

    def __init__(self, record: FlowRecord, timeout_ms: int) -> None:
        super().__init__(f"flow {record.id!r} is {record.state} after a wait of {timeout_ms} ms")
        self.record = record


def start(flow: Flow, *, broker: StreamsBroker | None = None) -> str:
    """Start a flow; returned means that it will end, whoever dies. Returns its id.

    ``broker`` is the application's by default, here and below.

    Raises:
      InvalidFlow, InvalidOption, MessageTooLarge: nothing was started.
      QueueClosed: the queue of most of its messages takes nothing more; nothing was started.
      BrokerConnectionError: it may or may not have been started.
    """
    if not flow.steps:
        raise InvalidFlow("steps", 0, "must be at least one")
    broker = _broker(broker)
    home = home_of(flow)
    plan = Plan(flow, f"{home}.{token_hex(8)}")
    messages = list(plan.messages(broker.flows.keys(home).flow_prefix + plan.id))
    correlation = current_correlation_id() or plan.id
    for message in messages:
        message.options.setdefault(CORRELATION, correlation)

    def write(new: list[NewMessage]) -> None:
        packed = [_packed(home, *row) for row in zip(messages, new, strict=True)]
        new_flow = _new_flow(plan, home, correlation, packed)
        letters = broker.flows.start(new_flow, inner=broker.producer.inner)
        _deliver(broker, home, letters)

    broker.producer.hand_over(messages, write)
    return plan.id


def get(flow_id: str, *, broker: StreamsBroker | None = None) -> FlowRecord | None:
    """The flow's record; None if there is none, or none any more.

    Raises Dramatiq's connection errors, as all below.
    """
    return state.read(flow_id, _broker(broker).flows.find(_home(flow_id), flow_id))


def results(flow_id: str, step: str, *, broker: StreamsBroker | None = None) -> list[Any]:
    """What the messages of a step returned, in their order; None for those that have not.

    Raises:
      FlowUnknown: there is no such flow.
      KeyError: it has no such step.
      Undecryptable, Unauthenticated: they are encrypted, and this process can't open them.
    """
    broker = _broker(broker)
    found = _known(flow_id, broker).step(step)
    home = _home(flow_id)
    values = broker.flows.results(home, flow_id, found.first, found.size)
    return [
        None
        if each is None
        else entry.load_json(broker.codec.read_result(home, flow_id, number, each))
        for number, each in enumerate(values, found.first)
    ]


def wait(flow_id: str, timeout: int = 60_000, *, broker: StreamsBroker | None = None) -> FlowRecord:
    """Wait up to ``timeout`` ms for the flow to end; returns its record then.

    It blocks on the server and asks nothing meanwhile.

    Raises:
      FlowTimeout: it has not ended.
      FlowUnknown: there is no such flow.
    """
    broker = _broker(broker)
    deadline = time.monotonic() + timeout / 1000
    record = _known(flow_id, broker)
    while not record.final:
        left_ms = int((deadline - time.monotonic()) * 1000)
        if left_ms <= 0:
            raise FlowTimeout(record, timeout)
        broker.flows.wait(_home(flow_id), flow_id, left_ms)
        record = _known(flow_id, broker)
    return record


def cancel(flow_id: str, *, broker: StreamsBroker | None = None) -> bool:
    """Stop a flow; False if it has ended, is unknown, or ends for another reason already.

    Nothing of it begins any more. What waits is cancelled when this returns, what runs within a
    second; what was done is undone, and then the flow has ended as cancelled. What waits and keeps
    no record (``records=False``) is cancelled when a worker takes it.
    """
    broker = _broker(broker)
    home = _home(flow_id)
    return stop(broker.flows, broker.commands.cancel, home, flow_id, "cancelled")


def resume(flow_id: str, *, broker: StreamsBroker | None = None) -> int:
    """Take a failed flow up where it failed: redrive the dead letters of its failed steps.

    They are found in whichever queue's dead letters they lie. Returns how many there were. The
    flow goes on as each of them completes; what comes after them runs then for the first time. A
    flow that was undone, even in part, is not taken up: its steps would build on what is no
    longer there.

    Raises:
      FlowUnknown: there is no such flow.
    """
    broker = _broker(broker)
    record = _known(flow_id, broker)
    if record.state != "failed" or any(
        step.kind == "undo" and step.released_at is not None for step in record.steps
    ):
        return 0
    letters: dict[str, list[str]] = defaultdict(list)
    for step in record.steps:
        if step.kind == "step":
            for queue in step.queues:
                letters[queue] += (f"{flow_id}-{number}" for number in step.errors)
    return sum(_redrive(broker, queue, ids) for queue, ids in letters.items())


def _redrive(broker: StreamsBroker, queue: str, ids: list[str]) -> int:
    moved = broker.inspector.redrive(queue, ids)
    if moved < len(ids):  # the others may lie among those of another queue: `dead_queue`
        others = (name for name in broker.inspector.queues() if name != queue)
        moved += sum(broker.inspector.redrive(name, ids) for name in others)
    return moved


def _known(flow_id: str, broker: StreamsBroker) -> FlowRecord:
    record = get(flow_id, broker=broker)
    if record is None:
        raise FlowUnknown(flow_id)
    return record


def _broker(broker: StreamsBroker | None) -> StreamsBroker:
    if broker is not None:
        return broker
    found = dramatiq.get_broker()
    if not isinstance(found, StreamsBroker):
        raise TypeError(f"flows need a StreamsBroker, not a {type(found).__name__}")
    return found


def _home(flow_id: str) -> str:
    return flow_id.rpartition(".")[0]


def _deliver(broker: StreamsBroker, home: str, letters: list[Letter]) -> None:
    try:
        deliver(broker.flows, home, letters)
    except BrokerConnectionError as error:
        # They are written: whichever worker looks at the queue next delivers them.
        _log.warning("Letters of queue %r are left to the workers: %s", home, error)


def _new_flow(plan: Plan, home: str, correlation: str, messages: list[bytes]) -> NewFlow:
    return NewFlow(
        plan.id,
        home,
        plan.flow.time_limit or 0,
        roots=_pack(plan.roots),
        hooks=_pack(plan.hooks),
        about=_pack(("name", plan.flow.name, "correlation", correlation)),
        steps=[step.packed() for step in plan.steps],
        messages=messages,
    )


def _packed(home: str, message: Message[Any], new: NewMessage) -> bytes:
    """As ``make_ready.lua`` reads it."""
    place, delay = message.options[OPTION]["at"], message.options.get("delay")
    delay_ms = 0 if delay is None else whole_ms(delay)
    queue = "" if message.queue_name == home else message.queue_name
    return packing.pack_array(
        (place, queue, new.message_id, new.level, delay_ms, new.recorded, new.fields)
    )
