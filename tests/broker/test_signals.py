"""Signals reach every middleware that listens, whenever it was added."""

from __future__ import annotations

import dramatiq
from dramatiq import Broker
from dramatiq.middleware import Middleware

from broker import StreamsBroker


class Listener(Middleware):
    """Notes the queues that are declared."""

    def __init__(self, heard: list[str], name: str) -> None:
        self.heard = heard
        self.name = name

    def before_declare_queue(self, broker: Broker, queue_name: str) -> None:
        self.heard.append(f"{self.name} before {queue_name}")

    def after_declare_queue(self, broker: Broker, queue_name: str) -> None:
        self.heard.append(f"{self.name} after {queue_name}")


class Deaf(Middleware):
    pass


def test_before_goes_through_the_stack_in_order_and_after_in_reverse() -> None:
    heard: list[str] = []
    broker = StreamsBroker(middleware=[Listener(heard, "a"), Deaf(), Listener(heard, "b")])
    broker.declare_queue("q")
    assert heard == ["a before q", "b before q", "b after q", "a after q"]


def test_a_middleware_added_or_removed_after_the_first_signal_counts() -> None:
    heard: list[str] = []
    broker = StreamsBroker(middleware=[Listener(heard, "a")])
    broker.declare_queue("q1")
    broker.add_middleware(Listener(heard, "b"), before=Listener)
    del heard[:]
    broker.declare_queue("q2")
    assert heard == ["b before q2", "a before q2", "a after q2", "b after q2"]
    broker.middleware.pop()
    del heard[:]
    broker.declare_queue("q3")
    assert heard == ["b before q3", "b after q3"]


def test_a_signal_that_an_instance_listens_to_is_heard() -> None:
    heard: list[str] = []
    deaf = Deaf()
    deaf.before_declare_actor = lambda broker, actor: heard.append(actor.actor_name)  # type: ignore[method-assign]
    broker = StreamsBroker(middleware=[deaf])

    @dramatiq.actor(broker=broker)
    def work() -> None: ...

    assert heard == ["work"]
