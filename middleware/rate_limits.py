"""Limits by a key of the job's own: how many start in a time, how many run at once.

A job over its limit is parked: the script that refuses it a start schedules it in the same step,
so no thread waits, nothing asks again in between, and no attempt is used up.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from dramatiq import Actor, Broker
from dramatiq.broker import MessageProxy
from dramatiq.errors import BrokerConnectionError
from dramatiq.logging import get_logger
from dramatiq.middleware import Middleware, SkipMessage

from broker import RateLimited, StreamsBroker
from broker.checks import check_int
from broker.delivery import Delivery, Slot
from broker.errors import InvalidActorOption, InvalidOption
from broker.limit_commands import Turn
from broker.limits import KeyLimits, Rate, check_key
from broker.outcome import Abandon, Cancel, Park, Parked

#: A key, or what makes it of the job's arguments; None is no limit for this job.
Key: TypeAlias = str | Callable[..., str | None]

# The server did not answer whether the job may start: it comes back after so many ms.
_UNANSWERED_MS = 1_000


@dataclass(frozen=True, slots=True)
class _Rule:
    """The options of one actor."""

    rate_key: Key | None
    rate: Rate | None
    concurrency_key: Key | None
    concurrency: int | None

    @classmethod
    def of(cls, actor: Actor[Any, Any]) -> _Rule:
        rule = cls(*map(actor.options.get, ("rate_key", "rate", "concurrency_key", "concurrency")))
        try:
            rule._check()
        except InvalidOption as error:
            field = f"{actor.actor_name}.{error.field}"
            raise InvalidActorOption(field, error.value, error.rule) from None
        return rule

    def _check(self) -> None:
        for name, key, bound in (
            ("rate", self.rate_key, self.rate),
            ("concurrency", self.concurrency_key, self.concurrency),
        ):
            if (key is None) != (bound is None):
                missing = f"{name}_key" if key is None else name
                raise InvalidOption(missing, None, f"{name} and {name}_key belong together")
            if key is not None and not callable(key):
                check_key(f"{name}_key", key)
        if self.rate is not None and not isinstance(self.rate, Rate):
            raise InvalidOption("rate", self.rate, "must be a broker.Rate")
        if self.concurrency is not None:
            check_int("concurrency", self.concurrency, 1)

    def limits(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> KeyLimits:
        """The limits of a job with these arguments.

        Raises:
          InvalidOption: what a callable made is no key; and whatever it raises itself.
        """
        rate_key = _key("rate_key", self.rate_key, args, kwargs)
        concurrency_key = _key("concurrency_key", self.concurrency_key, args, kwargs)
        return KeyLimits(
            rate_key,
            None if rate_key is None else self.rate,
            concurrency_key,
            None if concurrency_key is None else self.concurrency,
        )


def _key(name: str, key: Key | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    made = key(*args, **kwargs) if callable(key) else key
    return None if made is None else check_key(name, made)


class RateLimits(Middleware):
    """Limits jobs by ``rate_key`` and ``rate``, and by ``concurrency_key`` and ``concurrency``.

    It asks between Dramatiq and the actor's function, and not in ``before_process_message``: there
    the keys see the arguments as the job does, nothing comes between the answer and the start, and
    a key that can't be made fails the job as an error of its own would.

    On another broker than StreamsBroker, and for an actor that is called as a function, nothing is
    limited.
    """

    def __init__(self) -> None:
        self.logger = get_logger(__name__, type(self))
        self._here = threading.local()

    @property
    def actor_options(self) -> set[str]:
        return {"rate_key", "rate", "concurrency_key", "concurrency"}

    def before_declare_actor(self, broker: Broker, actor: Actor[Any, Any]) -> None:
        """Refuse bad options here: what an ``after_`` hook raises is swallowed.

        Raises:
          InvalidActorOption: names the actor's option, its value and its rule.
        """
        _Rule.of(actor)

    def after_declare_actor(self, broker: Broker, actor: Actor[Any, Any]) -> None:
        rule, run = _Rule.of(actor), actor.fn

        @functools.wraps(run)
        def limited(*args: Any, **kwargs: Any) -> Any:
            delivery = self._taken()
            if delivery is None or not isinstance(broker, StreamsBroker):
                return run(*args, **kwargs)
            return self._run(broker, delivery, rule.limits(args, kwargs), run, args, kwargs)

        actor.fn = limited

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        self._here.delivery = message if isinstance(message, Delivery) else None

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        self._here.delivery = None

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        self._here.delivery = None

    def _taken(self) -> Delivery | None:
        """The message that this thread is about to run, once: not for calls from within the job."""
        delivery: Delivery | None = getattr(self._here, "delivery", None)
        self._here.delivery = None
        return delivery

    def _run(
        self,
        broker: StreamsBroker,
        delivery: Delivery,
        limits: KeyLimits,
        run: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if limits.rate is not None or limits.concurrency is not None:
            self._start(broker, delivery, limits)
        try:
            return run(*args, **kwargs)
        except RateLimited as limited:
            self._hold(broker, delivery, limits, limited)
            raise
        finally:
            slot, delivery.slot = delivery.slot, None  # first: from here on nobody renews it
            if slot is not None and limits.concurrency is not None:
                self._free(broker, delivery.queue_name, slot, limits.concurrency)

    def _start(self, broker: StreamsBroker, delivery: Delivery, limits: KeyLimits) -> None:
        try:
            start = broker.commands.start(
                delivery.queue_name,
                delivery.lease,
                delivery.message_id,
                limits,
                broker.heartbeat_timeout,
            )
        except BrokerConnectionError as error:
            delivery.outcome = Park(_UNANSWERED_MS)
            raise self._skipped(delivery, f"the server did not answer: {error}") from error
        delivery.slot = start.slot
        if start.turn is Turn.PARKED:
            delivery.outcome = Parked()
            raise self._skipped(delivery, f"over its limit until {start.due_ms}")
        if start.turn is Turn.CANCELLED:
            delivery.outcome = Cancel()
            raise self._skipped(delivery, "cancelled")
        if start.turn is Turn.STALE:
            delivery.outcome = Abandon()
            raise self._skipped(delivery, "another worker has it by now")

    def _hold(
        self, broker: StreamsBroker, delivery: Delivery, limits: KeyLimits, limited: RateLimited
    ) -> None:
        key = limited.key or limits.rate_key or limits.concurrency_key
        delivery.outcome = Park(limited.retry_after_ms)
        try:
            if key is not None:
                broker.commands.hold(delivery.queue_name, key, limited.retry_after_ms)
        except BrokerConnectionError as error:
            self.logger.warning("Key %r could not be held: %s", key, error)
        raise self._skipped(delivery, str(limited)) from limited

    def _free(self, broker: StreamsBroker, queue: str, slot: Slot, concurrency: int) -> None:
        try:
            broker.commands.free_slot(queue, slot, concurrency)
        except BrokerConnectionError as error:
            self.logger.warning(
                "A slot of key %r is free only when its lease ends: %s", slot.key, error
            )

    def _skipped(self, delivery: Delivery, why: str) -> SkipMessage:
        # It has no result yet: without this Results would keep a None for it.
        delivery.options["store_results"] = False
        return SkipMessage(why)
