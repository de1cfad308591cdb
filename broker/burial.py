"""Why a delivery that Dramatiq rejected is buried, and what is kept of it."""

from __future__ import annotations

import traceback
from typing import Any

from dramatiq.common import current_millis
from dramatiq.errors import ActorNotFound
from dramatiq.middleware import AgeLimit, SkipMessage

from broker import evidence
from broker.commands import Doomed
from broker.delivery import Delivery
from broker.errors import Refused
from broker.evidence import Reason, Trail
from broker.outcome import Bury
from broker.settlement import Settlement


def burial(delivery: Delivery, throws: Any) -> Bury:
    """The burial of a rejected delivery; ``throws`` are the exceptions that its actor expects.

    The trail of a sealed delivery is still to be sealed.
    """
    error = delivery.exception
    told = _told(error)
    return Bury(
        reason=delivery.reason or _reason(error, throws),
        error="rejected by a middleware" if told is None else delivery.told(told),
        actor=delivery.actor_name,
        error_type="" if told is None else evidence.error_type(told),
        trail=evidence.dump(_trail(delivery)),
    )


def burial_of_doomed(doomed: Doomed) -> Settlement:
    """The end of a message that was delivered too often, as ``hand_back.lua`` does it."""
    count = doomed.lease.count
    error = f"delivered {count} times and never settled: it may kill its worker"
    facts = ["actor", doomed.actor, "queued", doomed.at]
    facts += ("deliveries", str(count), "error", error)
    bury = Bury("max_deliveries", error, doomed.actor)
    return Settlement(doomed.lease, doomed.message_id, "", bury, facts)


def _told(error: BaseException | None) -> BaseException | None:
    """Of a refusal its cause, which says what was wrong."""
    return error.__cause__ or error if isinstance(error, Refused) else error


def _reason(error: BaseException | None, throws: Any) -> Reason:
    if isinstance(error, Refused):
        return error.reason
    if isinstance(error, ActorNotFound):
        return "unknown_actor"
    if isinstance(error, SkipMessage) and _is_of_age_limit(error):
        return "expired"
    if error is None or isinstance(error, SkipMessage) or (throws and isinstance(error, throws)):
        return "rejected"
    return "retries_exhausted"


def _is_of_age_limit(error: BaseException) -> bool:
    # It raises what any other middleware may raise as well, and leaves no other mark.
    frames = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1] is AgeLimit.before_process_message.__code__


def _trail(delivery: Delivery) -> Trail:
    error = delivery.exception
    told = _told(error)
    text = evidence.text(told) if told is not None and delivery.sealed else ""
    if error is None or isinstance(error, SkipMessage | ActorNotFound):  # it did not run
        return Trail(attempts=evidence.attempts_of(delivery.options), error=text)
    attempts = evidence.with_attempt(
        delivery.options, error, delivery.lease.consumer, current_millis()
    )
    return Trail(evidence.traceback_of(error), attempts, text)
