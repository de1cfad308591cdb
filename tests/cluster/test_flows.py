"""Flows on a cluster: their steps' queues on different nodes."""

from __future__ import annotations

from typing import Any

import pytest

from broker import StreamsBroker
from middleware.flows import Flows
from pipelines import flows
from pipelines.flow import Flow
from tests.cluster.conftest import Queues
from tests.cluster.test_jobs import declare
from tests.conftest import StartWorker
from tests.contract.recording import Seen
from tests.waiting import PATIENCE_S, eventually

TIMEOUT_MS = int(PATIENCE_S * 1000)


@pytest.fixture
def with_flows(streams: StreamsBroker) -> StreamsBroker:
    streams.add_middleware(Flows())
    return streams


def test_a_flow_goes_over_all_nodes_and_back(
    with_flows: StreamsBroker, queues: Queues, start_worker: StartWorker
) -> None:
    names, seen = queues(1), Seen()

    def add(x: int, *given: Any) -> int:
        return x + int(sum(given))

    def total(given: list[Any]) -> None:
        seen.add(given)

    first, second, third = (declare(with_flows, add, name) for name in names)
    last = declare(with_flows, total, names[0])
    flow = Flow("round trip").step("a", first.message(1)).step("b", second.message(10), after="a")
    flow.parallel("c", [third.message(100), first.message(1000)], after="b")
    flow.step("d", last.message_with_options(), after=["b", "c"])
    flow_id = flows.start(flow.on_finish(second.message_with_options(args=(0,), pipe_ignore=True)))
    start_worker(with_flows)
    record = flows.wait(flow_id, TIMEOUT_MS)
    assert record.state == "completed", record.error
    assert seen.next() == [11, [111, 1011]]
    eventually(
        lambda: sum(with_flows.client.xlen(with_flows.flows.keys(name).outbox) for name in names),
        lambda letters: letters == 0,
        what="every letter delivered",
    )


def test_a_flow_on_a_cluster_is_cancelled(with_flows: StreamsBroker, queues: Queues) -> None:
    names = queues(1)

    def step() -> None: ...

    actors = [declare(with_flows, step, name) for name in names]
    flow = Flow("cancelled").parallel("all", [actor.message() for actor in actors])
    flow_id = flows.start(flow)
    assert flows.cancel(flow_id)
    record = flows.get(flow_id)
    assert record is not None
    assert record.state == "cancelled"
    assert [with_flows.inspector.size(name) for name in names] == [0, 0, 0]
