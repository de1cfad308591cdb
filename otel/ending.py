"""How a run ended, and what of it is an error."""

from __future__ import annotations

from enum import StrEnum

from dramatiq.broker import MessageProxy
from dramatiq.errors import RateLimitExceeded, Retry
from dramatiq.middleware import Shutdown

from broker.delivery import Delivery
from broker.outcome import Cancel, Park, Parked

#: The longest name of an error's type; a generated class may have any.
_LONGEST = 200


class Ending(StrEnum):
    """What came of a run."""

    COMPLETED = "completed"
    FAILED = "failed"
    #: A middleware decided that the job must not run.
    SKIPPED = "skipped"
    #: The job asked to be run again by raising Dramatiq's ``Retry``.
    RETRY_REQUESTED = "retry_requested"
    #: A limiter turned it away; it is put back.
    PARKED = "parked"
    #: The worker is shutting down; the message is handed back and no attempt is used up.
    RELEASED = "released"
    #: Somebody has cancelled it, before it ran or while it did.
    CANCELLED = "cancelled"

    @classmethod
    def of(cls, message: MessageProxy, exception: BaseException | None) -> Ending:
        """The ending that an exception means; None is success."""
        if exception is None:
            return cls.COMPLETED
        if isinstance(message, Delivery) and message.cancelled:
            return cls.CANCELLED
        if isinstance(exception, Shutdown):
            return cls.RELEASED
        if isinstance(exception, RateLimitExceeded):
            return cls.PARKED
        if isinstance(exception, Retry):
            return cls.RETRY_REQUESTED
        return cls.FAILED

    @classmethod
    def of_skipped(cls, message: MessageProxy) -> Ending:
        """The ending of a message that was not run, or not to its end."""
        if not isinstance(message, Delivery):
            return cls.SKIPPED
        if message.cancelled or isinstance(message.outcome, Cancel):
            return cls.CANCELLED
        return cls.PARKED if isinstance(message.outcome, Park | Parked) else cls.SKIPPED


def error_type(exception: BaseException) -> str:
    """The class of the exception, or of the one it was raised from.

    A wrapper says nothing that its cause does not say better: every failing job of an
    application may raise the same one.
    """
    seen = {id(exception)}
    while exception.__cause__ is not None and id(exception.__cause__) not in seen:
        exception = exception.__cause__
        seen.add(id(exception))
    return type_name(exception)


def type_name(exception: BaseException) -> str:
    """The class of the exception, with its module unless that is Python's own."""
    kind = type(exception)
    name = kind.__qualname__
    return (name if kind.__module__ == "builtins" else f"{kind.__module__}.{name}")[:_LONGEST]
