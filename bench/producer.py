"""A producer process of the benchmark: `python -m bench.producer TASK`, the task as JSON.

It prints how many seconds the jobs took.
"""

from __future__ import annotations

import sys
import time
from typing import Literal, TypeAlias

import msgspec

from bench import stream
from bench.peers import Peer, declare_noop
from broker import StreamsBroker

#: Jobs in one call of `enqueue_many`; the broker makes its own batches of them.
CALL = 1_000


#: The last three go to a bare stream, without any broker.
How: TypeAlias = Literal["one by one", "many", "xadd", "packed xadd", "read"]


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent, and how."""

    peer: Peer
    url: str
    namespace: str
    jobs: int
    how: How


def run(task: Task) -> float:
    """Seconds from the first job to the last; connecting is not counted."""
    if task.how == "xadd":
        return stream.append(task.url, task.namespace, task.jobs)
    if task.how == "packed xadd":
        return stream.append_packed(task.url, task.namespace, task.jobs)
    if task.how == "read":
        return stream.read(task.url, task.namespace, task.jobs)
    broker = task.peer.build(task.url, task.namespace)
    noop = declare_noop(broker, task.peer)
    if task.peer.collector:
        broker.emit_after("process_boot")  # sets the SDK up
    noop.send(0)  # connects, loads scripts, notes the queue
    begin = time.perf_counter()
    if task.how == "one by one":
        for number in range(task.jobs):
            noop.send(number)
    else:
        assert isinstance(broker, StreamsBroker)
        for first in range(0, task.jobs, CALL):
            numbers = range(first, min(first + CALL, task.jobs))
            broker.enqueue_many(noop.message(number) for number in numbers)
    return time.perf_counter() - begin


if __name__ == "__main__":
    print(run(msgspec.json.decode(sys.argv[1], type=Task)))
