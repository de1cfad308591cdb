"""Whichever script ends a message, its flow hears of it, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from broker.commands import BEGINNING, Commands, Handed
from broker.courier import deliver
from broker.outcome import Bury, Cancel, Done, Outcome, Release
from broker.settlement import Settlement
from pipelines.flow import Flow, chain
from tests.scripts.test_flows import LEVELS, Started, message

CHANNEL = "c1"


class Ended(Started):
    """A flow of two steps, of which a test ends the first; seen from its step's queue."""

    def __init__(self, client: Any, runner: Any, namespace: str, flow: Flow) -> None:
        super().__init__(client, runner, namespace, flow)
        self.queue = self.messages[0].queue_name
        self.jobs = Commands(runner, namespace, LEVELS - 1)
        self.deliver(self.letters)

    def take(self) -> Handed:
        fetched = self.jobs.fetch(
            self.queue, CHANNEL, 1, lowest_first=False, suspects=1, taken=[], signals=[]
        )
        return fetched.deliveries[0]

    def settle(self, outcome: Outcome) -> None:
        lease = self.take().lease
        settlement = Settlement(lease, self.messages[0].message_id, "", outcome)
        self.jobs.settle(self.queue, [settlement])

    def deliver_all(self) -> None:
        for queue in ("home", "away"):
            _, letters = self.commands.letters(queue, 100)
            for _ in range(2):
                deliver(self.commands, queue, letters)


def reclaimed(flow: Ended) -> None:
    flow.take()
    flow.jobs.reclaim(flow.queue, 0, 1, 10, BEGINNING)


def of_a_vanished_consumer(flow: Ended) -> None:
    lease = flow.take().lease
    flow.jobs.reclaim_consumer(flow.queue, lease.level, CHANNEL, 1, 10)


def cancelled(flow: Ended) -> None:
    assert flow.jobs.cancel(flow.queue, flow.messages[0].message_id) == "cancelled"


def cancelled_while_scheduled(flow: Ended) -> None:
    cancelled(flow)


def purged(flow: Ended) -> None:
    assert flow.jobs.purge(flow.queue, 10) == 1


def undecodable_when_its_time_came(flow: Ended) -> None:
    k = flow.jobs.keys(flow.queue)
    flow.client.hset(k.scheduled_messages, flow.messages[0].message_id, b"\xc1")
    flow.client.zadd(k.scheduled, {flow.messages[0].message_id: 1})
    flow.jobs.fetch(flow.queue, CHANNEL, 1, lowest_first=False, suspects=1, taken=[], signals=[])


ENDS: list[Callable[[Ended], None]] = [
    lambda flow: flow.settle(Bury("rejected", "ValueError: no")),
    lambda flow: flow.settle(Cancel()),
    reclaimed,
    of_a_vanished_consumer,
    cancelled,
    cancelled_while_scheduled,
    purged,
    undecodable_when_its_time_came,
]


@pytest.mark.parametrize("queue", ["home", "away"])
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_every_end_that_is_none_is_a_failure(
    client: redis.Redis, runner: Any, namespace: str, end: Callable[[Ended], None], queue: str
) -> None:
    scheduled = end in (cancelled_while_scheduled, undecodable_when_its_time_came)
    options: dict[str, Any] = {"delay": 60_000} if scheduled else {}
    first = message(queue=queue, **options)
    flow = chain("f", first, message(), message()).on_failure(message("f")).on_finish(message("e"))
    ended = Ended(client, runner, namespace, flow)
    end(ended)
    ended.deliver_all()
    record = ended.record()
    assert (record.state, record.failed_step) == ("failed", "a")
    assert record.error
    assert ended.ready("home") == [3, 4], "both hooks, and no other step"
    assert ended.outbox(queue) == 0


@pytest.mark.parametrize("queue", ["home", "away"])
def test_a_success_is_told_with_its_result(
    client: redis.Redis, runner: Any, namespace: str, queue: str
) -> None:
    flow = chain("f", message(queue=queue), message(), message())
    ended = Ended(client, runner, namespace, flow)
    ended.settle(Release())
    ended.deliver_all()
    assert ended.record().step("a").state == "running"
    ended.settle(Done(b'{"n":1}'))
    ended.deliver_all()
    assert ended.ready("home") == [1]
    assert ended.commands.results("home", ended.plan.id, 0, 1) == [b'{"n":1}']


def test_a_flow_goes_on_after_a_step_that_ended_in_a_batch_of_which_another_failed(
    client: redis.Redis, runner: Any, namespace: str
) -> None:
    flow = chain("f", message(), message(), message())
    ended = Ended(client, runner, namespace, flow)
    keys = ended.jobs.keys("home")
    client.xadd(keys.ready[0], {"id": "spoilt", "actor": "a", "at": "1", "args": "[]"})
    step, spoilt = ended.take().lease, ended.take().lease
    client.delete(keys.job_prefix + "spoilt")
    client.set(keys.job_prefix + "spoilt", "no hash")
    first = Settlement(step, ended.messages[0].message_id, "", Done(b"1"))
    batch = [first, Settlement(spoilt, "spoilt", "", Done())]
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        ended.jobs.settle("home", batch)
    assert ended.record().step("a").state == "completed"
    client.delete(keys.job_prefix + "spoilt")
    ended.jobs.settle("home", batch[1:])
    for number in (1, 2):
        following = ended.take().lease
        end = Settlement(following, ended.messages[number].message_id, "", Done())
        ended.jobs.settle("home", [end])
    assert ended.record().state == "completed"
