"""What can go wrong with a job, as types: what is retried, what is buried, what the caller did."""

from __future__ import annotations

from broker.errors import HeadraceError, InvalidOption


class QueueProcessingError(HeadraceError):
    """A job failed; the cause is its ``__cause__``. Retried until the queue's attempts are used."""


class PermanentJobError(QueueProcessingError):
    """A job failed in a way that no repeat can mend: buried at once, never retried."""


class UnknownQueue(InvalidOption):
    """No job is declared on that queue; nothing was enqueued."""


class WrongPayload(InvalidOption):
    """No job of that queue takes that payload; nothing was enqueued."""
