"""Which dead letters somebody means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from broker.checks import check_choice, check_int
from broker.evidence import Reason
from broker.letter_commands import LetterAges, LetterHead


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadFilter:
    """Which dead letters; None is any. Ages are ms since death, by the server's clock.

    Raises:
      InvalidOption: there is no such reason, or an age is no number of ms.
    """

    reason: Reason | None = None
    actor: str | None = None
    error_type: str | None = None
    #: A part of the error's text.
    error: str | None = None
    older_than_ms: int | None = None
    younger_than_ms: int | None = None

    def __post_init__(self) -> None:
        if self.reason is not None:
            check_choice("reason", self.reason, get_args(Reason))
        for name in ("older_than_ms", "younger_than_ms"):
            age = getattr(self, name)
            if age is not None:
                check_int(name, age, 0)

    @property
    def ages(self) -> LetterAges:
        return LetterAges(None, self.younger_than_ms, self.older_than_ms or 0)

    def takes(self, head: LetterHead) -> bool:
        """Whether a letter is among them, but for its age."""
        return (
            (self.reason is None or head.reason == self.reason)
            and (self.actor is None or head.actor == self.actor)
            and (self.error_type is None or head.error_type == self.error_type)
            and (self.error is None or self.error in head.error)
        )


#: All of them.
ANY = DeadFilter()
