"""When a schedule fires, and what becomes of a fire that comes late or too early."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Literal, TypeAlias, get_args

import msgspec

from broker.cron import Cron
from broker.errors import InvalidOption

Misfire: TypeAlias = Literal["skip", "once", "all"]
Overlap: TypeAlias = Literal["allow", "skip", "queue_one"]

_MOST_MISSED: Final = 1_000


class Timing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cron expression with its policies.

    Attributes:
      cron: see :class:`broker.cron.Cron`.
      timezone: an IANA name; the expression's times are what a clock there shows.
      misfire: what becomes of the times that passed while no scheduler ran. ``skip``: none of
        them runs. ``once``: the last one runs. ``all``: each one runs, the earliest first.
      misfire_limit: with ``all``, only the last so many run.
      overlap: what becomes of a fire while the last one's message has not ended. ``allow``: it
        is enqueued beside it. ``skip``: it does not run. ``queue_one``: it is enqueued when
        that has ended; of several that come meanwhile the first.

    Raises:
      InvalidOption: names the field, its value and the rule.
    """

    cron: str
    timezone: str = "UTC"
    misfire: Misfire = "once"
    misfire_limit: int = 100
    overlap: Overlap = "allow"

    def __post_init__(self) -> None:
        for field, value, known in (
            ("misfire", self.misfire, get_args(Misfire)),
            ("overlap", self.overlap, get_args(Overlap)),
        ):
            if value not in known:
                raise InvalidOption(field, value, f"must be one of {', '.join(known)}")
        limit = self.misfire_limit
        if type(limit) is not int or not 1 <= limit <= _MOST_MISSED:
            rule = f"must be an integer from 1 to {_MOST_MISSED}"
            raise InvalidOption("misfire_limit", limit, rule)
        if not isinstance(self.cron, str):
            raise InvalidOption("cron", self.cron, "must be a string")
        if not isinstance(self.timezone, str):
            raise InvalidOption("timezone", self.timezone, "must be a string")
        _ = self.times

    @property
    def times(self) -> Cron:
        """The times of the expression."""
        return _cron(self.cron, self.timezone)


_cron = lru_cache(maxsize=1_000)(Cron)
