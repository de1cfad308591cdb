"""The settings of one queue, and what the broker makes of them."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from broker.limits import QueueDepth, QueueLimit
from broker.retention import DeadRetention, Keep
from broker.retention import Retention as RecordRetention

AtLeastOne: TypeAlias = Annotated[int, Meta(ge=1)]

#: How a wait is spread, so that jobs that failed together don't come back together. added:
#: between the wait and twice the wait. equal: between half of it and all of it. full: between
#: nothing and all of it. none: not at all.
Jitter: TypeAlias = Literal["added", "equal", "full", "none"]


class Backoff(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long a failed job waits for its next attempt."""

    #: exponential: the delay doubles with every attempt. fixed: it stays.
    type: Literal["exponential", "fixed"]
    #: Milliseconds before the second attempt.
    delay: AtLeastOne
    #: Milliseconds that no wait exceeds.
    longest: AtLeastOne = 604_800_000
    jitter: Jitter = "added"


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which records of finished jobs stay: the newest ``count``, none older than ``age`` ms."""

    count: Annotated[int, Meta(ge=0)] | None = None
    age: AtLeastOne | None = None


class DeadLetterSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which dead letters stay: the newest ``count`` (None: any), none older than ``age`` ms."""

    age: AtLeastOne
    count: Annotated[int, Meta(ge=0)] | None = None


class Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """At most ``limit`` starts in ``per`` milliseconds, over all processes."""

    limit: AtLeastOne
    per: AtLeastOne


#: True removes a record at once, False keeps it, a number keeps so many of the newest.
Removal: TypeAlias = bool | Annotated[int, Meta(ge=0)] | Retention


class QueueSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the jobs of one queue run; the spec's ``defaultJobOptions`` and ``FeatureConfig``."""

    #: Jobs of the queue that run at once in one process: a hard cap.
    concurrency: AtLeastOne
    #: Runs until a failing job is buried, the first included.
    attempts: AtLeastOne
    backoff: Backoff
    remove_on_complete: Removal
    remove_on_fail: Removal
    dead_letters: DeadLetterSettings
    rate: Rate | None = None
    #: Jobs of the queue that run at once in all processes; None: no limit.
    global_concurrency: AtLeastOne | None = None
    #: Jobs that may be ready, in flight or scheduled at once; None: any number.
    max_depth: AtLeastOne | None = None
    #: What a producer does at that depth: raise, or wait for up to ``block_for`` and then raise.
    on_full: Literal["reject", "block"] = "reject"
    #: Milliseconds.
    block_for: AtLeastOne = 10_000

    @property
    def retention(self) -> RecordRetention:
        """Which records of its ended jobs stay."""
        return RecordRetention(_kept(self.remove_on_complete), _kept(self.remove_on_fail))

    @property
    def dead_retention(self) -> DeadRetention:
        """Which of its dead letters stay."""
        return DeadRetention(self.dead_letters.age, self.dead_letters.count)

    @property
    def limit(self) -> QueueLimit | None:
        """What holds for it over all processes, if anything does."""
        if self.rate is not None:
            return QueueLimit(self.global_concurrency, self.rate.limit, self.rate.per)
        return None if self.global_concurrency is None else QueueLimit(self.global_concurrency)

    @property
    def depth(self) -> QueueDepth | None:
        """How long it may become, if that has a bound."""
        if self.max_depth is None:
            return None
        return QueueDepth(self.max_depth, self.block_for if self.on_full == "block" else 0)


def _kept(removal: Removal) -> Keep:
    if isinstance(removal, Retention):
        return Keep(removal.count, removal.age)
    if isinstance(removal, bool):
        return Keep(0) if removal else Keep()
    return Keep(removal)
