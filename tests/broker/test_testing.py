"""`broker.testing`: what an application's tests ask of the jobs that it sent."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq.middleware import Retries

from broker import StreamsBroker
from broker.errors import NotInline
from broker.inline import InlineBroker
from broker.testing import HeldJobs, held

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def broker() -> InlineBroker:
    return InlineBroker(url=NOWHERE, middleware=[Retries(max_retries=2, min_backoff=60_000)])


@pytest.fixture
def jobs(broker: InlineBroker) -> Iterator[HeldJobs]:
    with held(broker) as made:
        yield made


@pytest.fixture
def seen() -> list[Any]:
    return []


@pytest.fixture
def note(broker: InlineBroker, seen: list[Any]) -> dramatiq.Actor[..., Any]:
    @dramatiq.actor(broker=broker, queue_name="notes")
    def note(*what: Any, **more: Any) -> None:
        seen.append(what)
        if what[:1] == ("bad",):
            raise ValueError("bad")

    return note


Note = dramatiq.Actor[..., Any]


def test_what_is_sent_waits_until_the_test_runs_it(
    jobs: HeldJobs, note: Note, seen: list[Any]
) -> None:
    note.send(1)
    note.send_with_options(args=(2,), broker_priority=5)
    assert seen == []
    assert [message.args for message in jobs.sent_messages()] == [(1,), (2,)]
    assert jobs.run_due() == 2
    assert seen == [(2,), (1,)]
    assert jobs.run_due() == 0


def test_a_message_is_found_by_its_arguments(jobs: HeldJobs, note: Note) -> None:
    note.send("a", {"n": (1, 2)})
    note.send("b", to="c")
    assert jobs.assert_enqueued(note).args == ("b",)
    assert jobs.assert_enqueued(note, "a", {"n": (1, 2)}).queue_name == "notes"
    assert jobs.assert_enqueued("note", "b", to="c").kwargs == {"to": "c"}
    with pytest.raises(AssertionError, match=r"note\('a', .*\n  note\('b',\)"):
        jobs.assert_enqueued(note, "c")
    with pytest.raises(AssertionError, match="nothing"):
        jobs.assert_enqueued("other", "c")
    jobs.assert_not_enqueued("other")
    with pytest.raises(AssertionError):
        jobs.assert_not_enqueued(note)


def test_delays_and_retries_go_by_the_clock_that_the_test_moves(
    jobs: HeldJobs, note: Note, seen: list[Any]
) -> None:
    note.send_with_options(args=("later",), delay=3_600_000)
    note.send("bad")
    assert (jobs.run_due(), seen) == (1, [("bad",)])
    jobs.clock.advance(timedelta(minutes=59))
    assert jobs.run_due() == 1
    jobs.clock.advance(120_000)
    jobs.run_due()
    assert ("later",) in seen


def test_run_until_empty_moves_the_clock_by_itself(
    jobs: HeldJobs, note: Note, seen: list[Any]
) -> None:
    before = jobs.clock.now_ms()
    note.send_with_options(args=("later",), delay=86_400_000)
    note.send("bad")
    assert jobs.run_until_empty() == 4
    assert seen == [("bad",), ("bad",), ("bad",), ("later",)]
    assert jobs.clock.now_ms() >= before + 86_400_000
    (ended,) = jobs.failed
    assert (ended.reason, ended.message.args) == ("retries_exhausted", ("bad",))


def test_jobs_that_go_on_sending_jobs_end_the_test(broker: InlineBroker, jobs: HeldJobs) -> None:
    @dramatiq.actor(broker=broker)
    def again() -> None:
        again.send()

    again.send()
    with pytest.raises(AssertionError, match="go on"):
        jobs.run_until_empty()


def test_one_of_a_deduplication_key_waits(jobs: HeldJobs, note: Note, seen: list[Any]) -> None:
    first = note.send_with_options(args=(1,), deduplication_key="k")
    assert note.send_with_options(args=(2,), deduplication_key="k").message_id == first.message_id
    jobs.run_until_empty()
    note.send_with_options(args=(3,), deduplication_key="k")
    jobs.run_until_empty()
    assert seen == [(1,), (3,)]


def test_afterwards_jobs_run_at_once_again(
    broker: InlineBroker, note: Note, seen: list[Any]
) -> None:
    with held(broker):
        note.send(1)
    note.send(2)
    assert seen == [(2,)]


def test_another_broker_is_refused_by_name() -> None:
    with pytest.raises(NotInline, match="HEADRACE_MODE=inline"), held(StreamsBroker(url=NOWHERE)):
        pass


def test_the_clock_goes_one_way(jobs: HeldJobs) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        jobs.clock.advance(-1)
