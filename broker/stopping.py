"""Stop a flow: nothing of it begins any more, and what waits or runs is cancelled."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from broker.courier import deliver
from broker.flow_commands import FlowCommands, FlowFound

#: Cancels a message: its queue and its id.
Cancel = Callable[[str, str], object]


class _Step(msgspec.Struct):
    kind: str
    first: int
    size: int
    queues: list[str]


_decode = msgspec.msgpack.Decoder(_Step).decode


def stop(flows: FlowCommands, cancel: Cancel, home: str, flow_id: str, reason: str) -> bool:
    """Stop a flow; False if it has ended already, or ends for another reason.

    ``reason`` is the state in which it ends: cancelled or timed_out. Raises Dramatiq's
    connection errors; it may be repeated.
    """
    stopped, letters = flows.stop(home, flow_id, reason)
    deliver(flows, home, letters)
    if stopped:
        for queue, number in _open(flows.find(home, flow_id)):
            cancel(queue, f"{flow_id}-{number}")
    return stopped


def _open(found: FlowFound) -> Iterator[tuple[str, int]]:
    """The messages that were sent and have not ended; of each, every queue that it may be in."""
    for name, packed in found.fields.items():
        if not name.isdecimal() or found.fields.get(f"{name}:state") != b"running":
            continue
        step = _decode(packed)
        if step.kind != "step":
            continue
        for number in range(step.first, step.first + step.size):
            if not found.has_ended(number):
                yield from ((queue, number) for queue in step.queues)
