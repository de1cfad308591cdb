"""The middleware of every process, in order, with a reason for each position.

``before_*`` hooks run from the top down, ``after_*`` hooks from the bottom up, so the
first one here sees a message first and lets go of it last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dramatiq.middleware import (
    AgeLimit,
    AsyncIO,
    Callbacks,
    CurrentMessage,
    Middleware,
    Pipelines,
    ShutdownNotifications,
    TimeLimit,
)

from broker.process_settings import RecyclingSettings
from broker.settings import Settings
from middleware.correlation import Correlation
from middleware.encryption import Encryption
from middleware.failure_notices import FailureNotices
from middleware.flows import Flows
from middleware.intake import EventIntake
from middleware.logs import Logs
from middleware.notice_channels import Channel
from middleware.periodic import Periodic
from middleware.rate_limits import RateLimits
from middleware.recycling import Recycling
from middleware.retries import PolicyRetries, RetryPolicy
from middleware.validation import Validation


def protection(settings: Settings) -> list[Middleware]:
    """What has to be at the very end of a broker's list, after everybody's."""
    wanted = settings.recycling != RecyclingSettings()
    # Its after_process_boot hook comes first: it forks before anybody has begun anything.
    return [Recycling(settings.recycling)] if wanted else []


def stack(
    settings: Settings, channels: Sequence[Channel] = (), *, innermost: Sequence[Middleware] = ()
) -> list[Middleware]:
    """A new list for a new broker; middleware is never shared between two.

    ``channels`` are the ways by which notices of failures go out; ``innermost`` is what has
    nothing but the interrupts between itself and the job.
    """
    encryption = Encryption.from_settings(settings.encryption)
    notices = FailureNotices(channels, interval_ms=settings.notifications.interval)
    return [
        # first: whatever another one sends in its hooks is already, and still, an encrypted job's.
        # Bodies are sealed after all hooks have seen them in clear, and opened before.
        *([] if encryption is None else [encryption]),
        *([notices] if channels else []),  # anywhere: it listens to settlements only
        Correlation(),  # early: everything later logs the id, and what it sends inherits it
        Periodic(settings.heartbeat),  # not about messages: its place is free
        EventIntake(),  # so is that of this one
        CurrentMessage(),  # above all that may ask for the message; it is forgotten last but one
        Logs(settings.logging),  # above all that decides how a job ends; it writes that down
        AgeLimit(),  # before anything is spent on a message that is too old
        Flows(),  # above Validation: what a flow gives its steps is an argument like the others
        Validation(),  # below what may open or drop a message, before its clock starts
        AsyncIO(),  # its loop runs before the first job; its place among messages is free
        RateLimits(),  # anywhere: it asks later than every before_ hook, right before the job
        Callbacks(),  # above Retries: it must see whether the message failed for good
        Pipelines(),  # above Retries as well: only a job that succeeded hands on its result
        PolicyRetries(_policies(settings)),  # its after_ hook decides first, for all above
        *innermost,
        # last: both interrupt the job's thread, and what comes too late for the job must not
        # hit a hook that holds a lock or settles what has ended
        ShutdownNotifications(),
        TimeLimit(),
    ]


def _policies(settings: Settings) -> Callable[[str], RetryPolicy]:
    return lambda queue: RetryPolicy.of(settings.queue(queue))
