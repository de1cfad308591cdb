"""The rules that many an option has to keep. Each function raises InvalidOption."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from broker.errors import InvalidOption

#: Dramatiq's own rule for the name of a queue.
QUEUE_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9._-]*")

_OF_JSON: Final = (str, int, float, type(None), list, tuple, dict)
#: Options of Dramatiq's Pipelines and GroupCallbacks: messages that are sent after this one.
_NEXT: Final = ("pipe_target", "group_completion_callbacks")


def check_int(name: str, value: object, least: int, most: int | None = None) -> int:
    """The value, an integer within these bounds; a bool is none."""
    if type(value) is not int or value < least or (most is not None and value > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InvalidOption(name, value, f"must be an integer {bounds}")
    return value


def check_text(name: str, value: object) -> str:
    """The value, a string of at least one character."""
    if not isinstance(value, str) or not value:
        raise InvalidOption(name, value, "must be a non-empty string")
    return value


def check_json(options: Mapping[str, Any]) -> None:
    """They are what JSON has: what it makes of anything else is no such option any longer.

    So are those of the messages that a pipeline's or a group's option holds.
    """
    for name, value in options.items():
        if not isinstance(value, _OF_JSON):
            raise InvalidOption(name, value, "must be text, a number, a list or an object of JSON")
        if name in _NEXT:
            for following in value if isinstance(value, list) else [value]:
                of_next = following.get("options") if isinstance(following, dict) else None
                if isinstance(of_next, dict):
                    check_json(of_next)


def check_unicode(name: str, value: str) -> None:
    """It has no lone surrogates, which no command can carry."""
    try:
        value.isascii() or value.encode()
    except UnicodeEncodeError:
        raise InvalidOption(name, value, "must be text without lone surrogates") from None


def check_choice(name: str, value: object, known: Collection[str]) -> None:
    """It is one of those that are known."""
    if value not in known:
        raise InvalidOption(name, value, f"must be one of {', '.join(known)}")
