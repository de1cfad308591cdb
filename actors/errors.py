"""What can go wrong with a job, as types: what is retried, what is buried, what the caller did."""

from __future__ import annotations

from broker.errors import HeadraceError, InvalidOption


class QueueProcessingError(HeadraceError):
    """A job failed; the cause is its ``__cause__``. Retried until the queue's attempts are used."""


class PermanentJobError(QueueProcessingError):
    """A job failed in a way that no repeat can mend: buried at once, never retried."""


class InvalidPayload(PermanentJobError, ValueError):
    """The payload breaks a rule. In the caller nothing was enqueued; in a worker it is buried.

    ``path`` says where, as in ``$.options.width``.
    """

    def __init__(self, actor: str, path: str, rule: str) -> None:
        super().__init__(f"payload of {actor!r}, at {path}: {rule}")
        self.actor = actor
        self.path = path
        self.rule = rule


class RuleBroken(ValueError):
    """What a payload's own ``check`` raises; becomes an :class:`InvalidPayload`."""

    def __init__(self, path: str, rule: str) -> None:
        super().__init__(f"{path}: {rule}")
        self.path = path
        self.rule = rule


class UnknownQueue(InvalidOption):
    """No job is declared on that queue; nothing was enqueued."""


class WrongPayload(InvalidOption):
    """No job of that queue takes that payload; nothing was enqueued."""
