"""Stop a flow: nothing of it begins any more, and what waits or runs is cancelled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from broker.courier import deliver
from broker.flow_commands import FlowCommands, FlowFound

_READ: Final = 1_000

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
        queues = set()
        for queue, number in _open(flows.find(home, flow_id)):
            cancel(queue, f"{flow_id}-{number}")
            queues.add(queue)
        for queue in queues:
            _deliver_ends(flows, queue, home, flow_id)
    return stopped


def _deliver_ends(flows: FlowCommands, queue: str, home: str, flow_id: str) -> None:
    """Those that cancelling has just left in an outbox; the workers find what is not among them."""
    flow = f"{flows.keys(home).flow_prefix}{flow_id}/"
    _, letters = flows.letters(queue, _READ)
    deliver(flows, queue, [letter for letter in letters if letter.to.startswith(flow)])


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
