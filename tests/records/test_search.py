"""Jobs are found by what they are about, a bounded part of a queue at a time."""

from __future__ import annotations

import dramatiq
import pytest
from dramatiq import Message

from broker import InvalidOption, State, StreamsBroker
from broker.search import By, JobSearch
from tests.conftest import StartWorker
from tests.waiting import eventually


def _message(actor: str, index: int, **options: object) -> Message[None]:
    return Message("mail", actor, (index,), {}, options, message_id=f"{actor}-{index}")


def _all(search: JobSearch, state: State, by: By, text: str, limit: int = 7) -> list[str]:
    ids, cursor = [], None
    while True:
        page = search.page("mail", state, by, text, cursor, limit=limit)
        assert len(page.records) <= limit
        ids += [record.id for record in page.records]
        cursor = page.cursor
        if cursor is None:
            return ids


def test_waiting_and_scheduled_jobs_are_found_on_all_pages(broker: StreamsBroker) -> None:
    broker.enqueue_many(_message("rare" if i % 10 == 0 else "usual", i) for i in range(100))
    broker.enqueue(_message("rare", 100, broker_priority=9))
    broker.enqueue_many([_message("rare", 101), _message("usual", 102)], delay=60_000)
    wanted = {f"rare-{i}" for i in range(0, 101, 10)}
    found = _all(broker.search, State.QUEUED, "actor", "rare")
    assert set(found) == wanted
    assert len(found) == len(wanted)
    assert _all(broker.search, State.SCHEDULED, "actor", "rare") == ["rare-101"]


def test_a_chain_is_found_by_its_correlation_id(broker: StreamsBroker) -> None:
    broker.enqueue(_message("a", 1, correlation_id="chain-1"))
    broker.enqueue(_message("a", 2, correlation_id="chain-2"))
    broker.enqueue(_message("a", 3, correlation_id="chain-1"), delay=60_000)
    for state, id in ((State.QUEUED, "a-1"), (State.SCHEDULED, "a-3")):
        assert _all(broker.search, state, "correlation", "chain-1") == [id]


def test_ended_jobs_are_found_by_a_part_of_their_error(
    broker: StreamsBroker, start_worker: StartWorker
) -> None:
    @dramatiq.actor(queue_name="mail", max_retries=0)
    def act(index: int) -> None:
        if index % 2:
            raise ValueError(f"no such address {index} [%d]")

    for index in range(8):
        act.send(index)
    start_worker(broker)
    eventually(lambda: broker.inspector.size("mail"), lambda size: size == 0)
    found = _all(broker.search, State.DEAD, "error", "address 3 [%")
    assert len(found) == 1
    assert len(_all(broker.search, State.DEAD, "error", "such", limit=2)) == 4
    assert len(_all(broker.search, State.COMPLETED, "actor", "act", limit=3)) == 4
    assert _all(broker.search, State.CANCELLED, "actor", "act") == []


def test_a_running_job_is_found(broker: StreamsBroker) -> None:
    assert _all(broker.search, State.RUNNING, "actor", "act") == []


@pytest.mark.parametrize(
    ("by", "text", "cursor"),
    [
        *(("colour", "red", None), ("actor", "", None)),
        *(("actor", "a", cursor) for cursor in ("x", "99:", "99:1-1", "0:now")),
    ],
)
def test_what_breaks_a_rule_is_named(
    broker: StreamsBroker, by: By, text: str, cursor: str | None
) -> None:
    with pytest.raises(InvalidOption):
        broker.search.page("mail", State.QUEUED, by, text, cursor)
    with pytest.raises(InvalidOption):
        broker.search.page("mail", State.DEAD, "actor", "a", "1:2")


@pytest.mark.parametrize(
    ("state", "cursor"),
    [(State.QUEUED, "0:now"), (State.RUNNING, "99:1-1"), (State.DEAD, "1:2"), (State.DEAD, "-1")],
)
def test_a_cursor_that_no_page_gave_is_refused(
    broker: StreamsBroker, state: State, cursor: str
) -> None:
    with pytest.raises(InvalidOption, match="page before"):
        broker.jobs.list("mail", state, cursor)
