"""A flow's page: its steps as a graph, with their states."""

from __future__ import annotations

from typing import Any

import dramatiq

from broker import StreamsBroker
from dashboard.flow_graph import drawn
from middleware.flows import Flows
from pipelines import flows
from pipelines.flow import Flow
from tests.conftest import StartWorker
from tests.dashboard.browser import Browser


def test_a_flow_is_shown_with_the_states_of_its_steps(
    browser: Browser, broker: StreamsBroker, start_worker: StartWorker
) -> None:
    broker.add_middleware(Flows())

    @dramatiq.actor(queue_name="mail", max_retries=0)
    def step(*given: Any, fails: bool = False) -> int:
        if fails:
            raise ValueError("<b>on purpose</b>")
        return 1

    flow = Flow("rendition")
    flow.step("cut", step.message(1))
    flow.step("fold", step.message(2), after="cut")
    flow.step("glue", step.message(fails=True), after="fold")
    id = flows.start(flow, broker=broker)
    start_worker(broker)
    flows.wait(id, timeout=20_000, broker=broker)

    page = browser.page(f"/flow?id={id}")
    for text in ("rendition", "cut", "fold", "glue", "state--completed", "state--failed"):
        assert text in page
    assert "&lt;b&gt;on purpose" in page
    assert page.count('class="edge"') == 2
    assert id in browser.page("/flows")
    (job, *_) = broker.jobs.list("mail", "completed").records
    assert job.flow_id == id
    assert f"/flow?id={id}" in browser.page(f"/queues/mail/job?id={job.id}")
    assert browser.get("/flow?id=nobodys").status_code == 404


def test_a_step_is_right_of_all_that_it_waits_for() -> None:
    class Step:
        def __init__(self, number: int, *following: int) -> None:
            self.number = number
            self.next = following

    graph = drawn([Step(0, 1, 2), Step(1, 3), Step(2), Step(3, 2)])
    columns = {box.step.number: box.x for box in graph.boxes}
    assert columns[0] < columns[1] < columns[3] < columns[2]
    assert len(graph.lines) == 4
