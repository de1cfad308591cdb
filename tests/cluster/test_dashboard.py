"""The dashboard over queues on different nodes."""

from __future__ import annotations

from typing import Any

import dramatiq

from broker import StreamsBroker
from dashboard import Access, Dashboard
from tests.cluster.conftest import Queues
from tests.conftest import StartWorker
from tests.dashboard.browser import Browser
from tests.waiting import eventually


def test_every_page_answers(
    streams: StreamsBroker, queues: Queues, start_worker: StartWorker
) -> None:
    first, second, _ = queues(1)

    @dramatiq.actor(queue_name=first, max_retries=0)
    def act(fails: bool = False, **_: Any) -> None:
        if fails:
            raise ValueError("on purpose")

    @dramatiq.actor(queue_name=second)
    def other() -> None: ...

    dead, waiting = act.send(fails=True), other.send_with_options(delay=60_000)
    act.send()
    start_worker(streams, queues={first})
    eventually(lambda: streams.inspector.queue(first).dead, lambda dead: dead == 1)
    dashboard = Dashboard(streams, access=Access.open_to_this_machine())
    dashboard.sampler.look()
    browser = Browser(dashboard)
    overview = browser.page("/")
    assert first in overview
    assert second in overview
    for path in ("/schedules", "/workers", "/flows", "/events", "/search?by=error&for=purpose"):
        browser.page(path)
    for state in ("queued", "running", "scheduled", "completed", "cancelled"):
        browser.page(f"/queues/{first}/jobs?state={state}")
    assert dead.message_id in browser.page(f"/queues/{first}/dead")
    browser.page(f"/queues/{first}/job?id={dead.message_id}")
    assert waiting.message_id in browser.page(f"/queues/{second}/jobs?state=scheduled")
    browser.submit(f"/queues/{first}/job?id={dead.message_id}", "/actions/delete")
    assert streams.inspector.queue(first).dead == 0
