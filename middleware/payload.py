"""Payloads: structs that producers fill in and workers receive, checked on both sides."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from broker.errors import HeadraceError

T = TypeVar("T")


class InvalidPayload(HeadraceError, ValueError):
    """The arguments break a rule. In the caller nothing was enqueued; in a worker it is buried.

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


class Payload(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="camel"
):
    """Base of payloads. A subclass repeats ``kw_only=True``, which is not inherited.

    Names are snake_case in Python and camelCase on the wire (``user_id`` is ``userId``).
    """

    def check(self) -> None:
        """Rules that types can't say; run in the caller and in the worker.

        Raises:
          RuleBroken: the first rule broken, and where.
        """


def read(kind: type[T], value: object, at: str = "$") -> T:
    """The value as its type, checked.

    Raises:
      RuleBroken: the first rule broken; the path begins with ``at``.
    """
    try:
        made = msgspec.convert(value, kind, str_keys=True)
    except msgspec.ValidationError as error:
        rule, _, path = str(error).partition(" - at `$")
        raise RuleBroken(at + path.rstrip("`"), rule) from None
    if isinstance(made, Payload):
        try:
            made.check()
        except RuleBroken as error:
            raise RuleBroken(at + error.path.removeprefix("$"), error.rule) from None
    return made
