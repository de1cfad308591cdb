"""What a delivery ends as: told by what Dramatiq, the actor and the middleware leave of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from dramatiq.common import current_millis
from dramatiq.errors import ActorNotFound
from dramatiq.message import Message
from dramatiq.middleware import Retries, Shutdown

from broker import evidence
from broker.burial import burial
from broker.delivery import Delivery
from broker.entry import Fields
from broker.errors import AwaitsDeploy, InvalidOption
from broker.facts import facts_of
from broker.options import Options
from broker.outcome import Abandon, Bury, Cancel, Done, Outcome, Release, Retry
from broker.settlement import Settlement

if TYPE_CHECKING:
    from broker.broker import StreamsBroker

_LONGEST_DEPLOY_PAUSE = 15_000


class Endings:
    """Decides how the deliveries of a broker end."""

    def __init__(self, broker: StreamsBroker, options: Options) -> None:
        self._broker = broker
        self._options = options

    def retry(self, delivery: Delivery, delay: int | None) -> Message[Any]:
        """Make a successor of the delivery's message its end; returns that.

        Dramatiq's Retries enqueues what it wants to run again, and the worker acknowledges it
        then: in between nothing may be lost.
        """
        if delivery.cancelled:
            delivery.outcome = Cancel()
            return delivery.message
        if isinstance(delivery.exception, Shutdown):
            delivery.outcome = Release()
            return delivery.message
        # Until the successor is ready, a failure must not lose the job.
        delivery.outcome = Abandon()
        now = current_millis()
        options: dict[str, Any] = {} if delay is None else {"eta": now + delay}
        if delivery.exception is not None:
            worker = delivery.lease.consumer
            options |= evidence.options(delivery.options, delivery.exception, worker, now)
        # Its own options: a middleware may have put another message in this one's place.
        message = delivery.message.copy(options={**delivery.options, **options})
        self._broker.emit_before("enqueue", message, delay)
        fields = self._encode(message)
        delivery.outcome = Retry(max(0, int(delay or 0)), self._level(delivery, message), fields)
        self._broker.emit_after("enqueue", message, delay)
        return message

    def _level(self, delivery: Delivery, message: Message[Any]) -> int:
        try:
            return self._options.level(message)
        except InvalidOption:  # another language's, or of before `max_priority` was lowered
            return delivery.lease.level

    def outcome(self, delivery: Delivery, *, failed: bool) -> Outcome:
        """The end of a delivery that Dramatiq acknowledged or, ``failed``, rejected."""
        error = delivery.exception
        if delivery.cancelled and (failed or error is not None):
            return Cancel()
        if isinstance(delivery.outcome, Retry):
            return delivery.outcome  # it was enqueued, whoever rejects it besides
        if failed:
            return self._of_rejected(delivery, error)
        if delivery.outcome is not None:
            return delivery.outcome
        if isinstance(error, Shutdown):
            return Release()
        # With Retries in place a failure is retried or rejected. Neither happened: preparing
        # the retry failed and Dramatiq swallowed the error.
        if (
            error is not None
            and not delivery.requeued
            and any(isinstance(m, Retries) for m in self._broker.middleware)
        ):
            return Abandon()
        return Done(delivery.result)

    def settlement(self, delivery: Delivery, outcome: Outcome) -> Settlement:
        """The end as it is written, with what the job's record is told."""
        message = delivery.message
        key = evidence.encodable(str(self._options.get(message, "deduplication_key", None) or ""))
        failure = None if delivery.cancelled else delivery.exception
        error = "" if failure is None else delivery.told(failure)
        # Not recorded(): another language's option of any kind must not hinder the end.
        recorded = self._options.get(message, "records", True) is not False
        facts = facts_of(delivery, error) if recorded else None
        return Settlement(delivery.lease, message.message_id, key, outcome, facts, error)

    def _of_rejected(self, delivery: Delivery, error: BaseException | None) -> Outcome:
        if isinstance(error, Shutdown):
            return Release()
        if isinstance(error, ActorNotFound | AwaitsDeploy):
            return self._await_deploy(delivery)
        return self._burial(delivery, self._options.get(delivery.message, "throws", None))

    def _burial(self, delivery: Delivery, throws: Any) -> Bury:
        bury = burial(delivery, throws)
        if not delivery.sealed:
            return bury
        trail = self._broker.codec.seal_trail(delivery.message, bury.trail)
        return msgspec.structs.replace(bury, trail=trail)

    def _await_deploy(self, delivery: Delivery) -> Outcome:
        """Retry for the grace (a rolling deploy may bring what knows it), then bury."""
        now, grace = current_millis(), self._broker.unknown_actor_grace
        since = delivery.options.get("unknown_since")
        if not isinstance(since, int) or since > now:  # whoever wrote it
            since = delivery.options["unknown_since"] = now
        waited = now - since
        if waited >= grace:
            return self._burial(delivery, None)
        pause = min(max(250, waited), _LONGEST_DEPLOY_PAUSE, max(1, grace - waited))
        return Retry(pause, delivery.lease.level, self._encode(delivery.message))

    def _encode(self, message: Message[Any]) -> Fields:
        return self._broker.producer.encode(message, added=evidence.MOST_ADDED_BYTES)
