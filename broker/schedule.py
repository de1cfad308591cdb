"""When a schedule fires, and what becomes of a fire that comes late or too early."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias, get_args
from uuid import UUID, uuid5

import msgspec
from dramatiq.message import Message

from broker.checks import check_choice
from broker.cron import Cron
from broker.errors import InvalidOption

Misfire: TypeAlias = Literal["skip", "once", "all"]
Overlap: TypeAlias = Literal["allow", "skip", "queue_one"]

_MOST_MISSED: Final = 1_000
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,199}")
#: The root of the fires' ids.
_FIRES: Final = UUID("6f5c8d56-5d4b-4cf5-9a6e-0c2b2f6f3f41")


class Timing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cron expression with its policies.

    Attributes:
      cron: see :class:`broker.cron.Cron`.
      timezone: an IANA name; the expression's times are what a clock there shows.
      misfire: what becomes of fires that no scheduler made within a minute. ``skip``: none of
        them runs. ``once``: the last one runs, unless one is due now. ``all``: each one runs,
        the earliest first.
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
        check_choice("misfire", self.misfire, get_args(Misfire))
        check_choice("overlap", self.overlap, get_args(Overlap))
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


class Schedule(Timing, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What fires: a timing and the message of each fire.

    ``args``, ``kwargs`` and ``options`` are JSON's own types. They are kept readable, also
    where the messages are encrypted.
    """

    name: str
    queue: str
    actor: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    options: dict[str, Any] = {}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _NAME.fullmatch(str(self.name)):
            rule = "must be 1 to 200 letters, digits or _ . : / - and begin with a letter or digit"
            raise InvalidOption("name", self.name, rule)

    def fire(self, at_ms: int) -> Message[Any]:
        """The message of the fire at this time: the same id whoever makes it, and whenever."""
        fire = f"{self.queue}\n{self.name}\n{at_ms}"
        return self.message(str(uuid5(_FIRES, fire)), {"fire_time": at_ms})

    def message(self, message_id: str, options: dict[str, Any]) -> Message[Any]:
        """A message as the schedule's fires have, with these options more."""
        return Message(
            queue_name=self.queue,
            actor_name=self.actor,
            args=self.args,
            kwargs=self.kwargs,
            options={**self.options, "schedule": self.name, **options},
            message_id=message_id,
        )


class Fired(Enum):
    """What became of a fire."""

    #: Its message was enqueued.
    FIRED = b"fired"
    #: It had been made before, by this scheduler or by another one.
    AGAIN = b"again"
    #: The schedule has been replaced or removed since it was read.
    CHANGED = b"changed"
    PAUSED = b"paused"
    #: The last fire's message has not ended, and ``overlap`` says that this one does not run.
    SKIPPED = b"skipped"
    #: As above, and this one is made when that has ended.
    WAITING = b"waiting"


@dataclass(frozen=True, slots=True)
class ScheduleInfo:
    """A schedule and where it stands. Times are unix ms.

    ``next_fire_ms`` is in the past when it is due and no scheduler has made it: none runs, or none
    that has its code. While it is ``paused``, or its queue ``closed``, nothing is due.
    ``outcome`` is what became of the last fire's message: ``unfinished``, ``completed``,
    ``dead`` or ``cancelled``; None before the first one, or when nobody looked in time.
    ``skipped`` counts the fires that ``overlap`` left out, ``missed`` those that ``misfire`` did.
    """

    schedule: Schedule
    declared: bool
    paused: bool
    closed: bool
    next_fire_ms: int | None
    last_fire_ms: int | None
    last_message_id: str | None
    outcome: str | None
    waiting_fire_ms: int | None
    skipped: int
    missed: int
