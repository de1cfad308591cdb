"""The broker's own options: a message's, or else its actor's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dramatiq.actor import Actor
from dramatiq.message import Message

from broker.checks import check_choice, check_int, check_text
from broker.clock import LONGEST_DELAY_MS
from broker.errors import InvalidOption
from broker.new_message import Claim

NAMES: Final = frozenset(
    {
        "broker_priority",
        "dead_queue",
        "on_dead",
        "records",
        "deduplication_key",
        "deduplication_ttl",
        "deduplication_mode",
        "deduplication_replace",
    }
)
_MODES: Final = ("until_finished", "for_ttl")


class Options:
    """Reads and checks them. Every method but :meth:`get` raises InvalidOption."""

    def __init__(self, actors: Mapping[str, Actor[Any, Any]], max_priority: int) -> None:
        self._actors = actors
        self._max_priority = max_priority

    def get(self, message: Message[Any], name: str, default: Any) -> Any:
        """The option as it was given, whatever it is."""
        if name in message.options:
            return message.options[name]
        actor = self._actors.get(message.actor_name)
        return default if actor is None else actor.options.get(name, default)

    def level(self, message: Message[Any]) -> int:
        """``broker_priority``: 0, the lowest and the default, to the highest level."""
        level = self.get(message, "broker_priority", 0)
        if type(level) is not int or not 0 <= level <= self._max_priority:
            raise InvalidOption(
                "broker_priority", level, f"must be an integer from 0 to {self._max_priority}"
            )
        return level

    def recorded(self, message: Message[Any]) -> bool:
        """``records``: whether a record of the job is kept."""
        return self._flag(message, "records", default=True)

    def claim(self, message: Message[Any]) -> Claim | None:
        """``deduplication_key``, and how it is held; None without one."""
        key = self.get(message, "deduplication_key", None)
        if key is None:
            return None
        check_text("deduplication_key", key)
        mode = self.get(message, "deduplication_mode", "until_finished")
        check_choice("deduplication_mode", mode, _MODES)
        ttl_ms = self.get(message, "deduplication_ttl", None)
        if ttl_ms is None and mode == "for_ttl":
            raise InvalidOption("deduplication_ttl", ttl_ms, "is required by the mode for_ttl")
        if ttl_ms is not None:
            check_int("deduplication_ttl", ttl_ms, 1, LONGEST_DELAY_MS)
        replaces = self._flag(message, "deduplication_replace", default=False)
        return Claim(key, ttl_ms or 0, mode == "for_ttl", replaces)

    def _flag(self, message: Message[Any], name: str, *, default: bool) -> bool:
        value = self.get(message, name, default)
        if type(value) is not bool:
            raise InvalidOption(name, value, "must be True or False")
        return value
