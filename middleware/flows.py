"""Gives the steps of flows what they take, and keeps what they return for those that follow."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
from dramatiq.errors import BrokerConnectionError
from dramatiq.middleware import Middleware, SkipMessage

from broker import StreamsBroker, entry, packing
from broker.delivery import Delivery
from broker.errors import HeadraceError, Refused
from broker.flow_commands import Beginning, Begun
from broker.flow_step import OPTION, FlowStep, argument, outcome
from broker.outbox import Place
from broker.outcome import Cancel, Release
from broker.sealing import NotOpened, SealingFailed


class UnusableResult(HeadraceError, ValueError):
    """A step's result can't be handed on; the step is buried."""

    def __init__(self, actor: str, why: str) -> None:
        super().__init__(f"result of actor {actor!r}: {why}")


class Flows(Middleware):
    """Needed on every broker that runs flows, above what looks at arguments.

    A step of a flow that was cancelled does not run, nor one that comes back from the dead letters
    to a flow that can't go on; what undoes and hooks always run. A result that JSON can't
    represent, or that is too large, buries its step: nothing goes on without it.
    """

    def before_take(self, broker: StreamsBroker, deliveries: Sequence[Delivery]) -> None:
        """Begin what was taken from a queue at once: one round trip for each home of a flow.

        What that fails for begins alone, right before it runs.
        """
        by_home: dict[str, list[tuple[Delivery, Beginning]]] = defaultdict(list)
        for delivery in deliveries:
            delivery.begun = _sent_along(delivery)
            if OPTION in delivery.options and delivery.begun is None:
                with suppress(Refused):
                    step, place = _read(broker, delivery)
                    by_home[place.home].append((delivery, _beginning(step, place)))
        for home, rows in by_home.items():
            with suppress(BrokerConnectionError):
                begun = broker.flows.begin(home, [beginning for _, beginning in rows])
                for (delivery, _), each in zip(rows, begun, strict=True):
                    delivery.begun = each

    def before_process_message(self, broker: StreamsBroker, message: Delivery) -> None:  # type: ignore[override]  # made for no other
        if OPTION not in message.options:
            return
        step, place = _read(broker, message)
        try:
            begun = _begin(broker, message, step, place)
            found = broker.flows.find(place.home, place.flow_id) if step.outcome else None
        except BrokerConnectionError as error:
            message.outcome = Release()  # it has not run: not an attempt
            raise SkipMessage(f"the flow can't be reached: {error}") from error
        if not begun.state:
            raise Refused("expired", f"flow {place.flow_id!r} is forgotten")
        if begun.ms_left is not None:
            broker.worker.expect_end_of_flow(place.home, begun.ms_left)
        if not begun.may_run:
            message.outcome = Cancel()
            raise SkipMessage(f"flow {place.flow_id!r} is {begun.state}")
        if found is not None:
            given = msgspec.to_builtins(outcome(place.flow_id, found))
            message.args = (*message.args, given)
        elif step.takes:
            results = _results(broker, step, place, begun.results)
            # It hides the message's own, which is what a retry or a burial keeps.
            message.args = (*message.args, argument(step, results))

    def after_process_message(  # type: ignore[override]  # made for no other
        self,
        broker: StreamsBroker,
        message: Delivery,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        if OPTION not in message.options:
            return
        if exception is not None or message.failed or result is None:
            return
        try:
            encoded = _encode(broker, message, result)
            _, place = _read(broker, message)
            message.result = broker.codec.keep_result(message._message, place, encoded)
        except (UnusableResult, SealingFailed) as error:
            # Raised here it would be swallowed, and the flow go on.
            message.fail()
            message.stuff_exception(error)


def _read(broker: StreamsBroker, message: Delivery) -> tuple[FlowStep, Place]:
    try:
        step = msgspec.convert(message.options[OPTION], FlowStep)
        return step, Place.parse(broker.namespace, step.at)
    except ValueError as error:
        raise Refused("invalid", f"option {OPTION!r}: {error}") from error


def _results(
    broker: StreamsBroker, step: FlowStep, place: Place, kept: list[bytes | None]
) -> list[Any]:
    numbers = [first + offset for first, count in step.spans for offset in range(count)]
    try:
        return [
            None
            if each is None
            else entry.load_json(broker.codec.read_result(place.home, place.flow_id, number, each))
            for number, each in zip(numbers, kept, strict=True)
        ]
    except NotOpened as error:
        raise Refused(error.reason, f"flow {place.flow_id!r}, a step before: {error}") from error


def _sent_along(delivery: Delivery) -> Begun | None:
    """What its flow has said beforehand; not of one that came back, whose flow may have ended."""
    if not delivery.given or delivery.options.get("redrives"):
        return None
    results = [each or None for each in packing.unpack(delivery.given)]
    return Begun("running", may_run=True, ms_left=None, results=results)


def _beginning(step: FlowStep, place: Place) -> Beginning:
    return Beginning(place, step.spans, always=step.kind != "step")


def _begin(broker: StreamsBroker, message: Delivery, step: FlowStep, place: Place) -> Begun:
    begun = message.begun
    if begun is None:
        (begun,) = broker.flows.begin(place.home, [_beginning(step, place)])
    is_step, redriven = step.kind == "step", message.options.get("redrives")
    if is_step and redriven and begun.state in ("stopping", "failed"):
        may_run, letters = broker.flows.reopen(place)
        broker.worker.deliver(place.home, letters)
        return dataclasses.replace(begun, may_run=may_run)
    return begun


def _encode(broker: StreamsBroker, message: Delivery, result: Any) -> bytes:
    try:
        encoded = entry.dump_json(result)
    except (TypeError, ValueError, RecursionError) as error:
        raise UnusableResult(message.actor_name, f"must be JSON: {error}") from error
    size, limit = len(encoded), broker.max_message_bytes
    if size > limit:
        raise UnusableResult(message.actor_name, f"{size} bytes encoded, the limit is {limit}")
    return encoded
