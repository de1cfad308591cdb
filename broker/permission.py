"""Runs scripts, each once the server has said that the user may run all of it.

A server denies a command inside a script when its turn comes, and what the script has written
until then stays: a job in two places, or half in one. So the server is asked before, again after
a minute for each script and queue. What runs all the time pays nothing for that, and what runs now
and then is asked for each time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import redis

from broker import lua_access
from broker.errors import ScriptDenied, is_denial
from broker.packing import pack_array
from broker.scripts import Argument, Client, script

_FRESH_S: Final = 60.0
#: It has a channel and no key, and scripts run it before they write.
_NOT_ASKED: Final = "publish"


@dataclass(frozen=True, slots=True)
class _Question:
    command: str
    #: The number of the key among the script's; 0 for none.
    key: int
    packed: bytes


class PermittedScripts:
    """The scripts as one client runs them: the answers are about the user that it logs in as."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known_until: dict[tuple[str, str], float] = {}

    def run(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run a script.

        Raises:
          ScriptDenied: the user may not run all of it; nothing was written.
          redis.RedisError: what the server or the connection says.
        """
        place = name, keys[0].partition("}")[0]
        if self._known_until.get(place, 0.0) < time.monotonic():
            self._ask(name, keys)
            self._known_until[place] = time.monotonic() + _FRESH_S
        try:
            return script(name).run(self._client, keys, args)
        except redis.ResponseError as error:
            if is_denial(error):
                self._known_until.clear()  # the user's rules are others now
            raise

    def _ask(self, name: str, keys: Sequence[str]) -> None:
        # Keys that come last may be left out: then no command is run on them.
        asked = [each for each in _questions(name) if each.key <= len(keys)]
        denied = script("permitted").run(self._client, keys, [each.packed for each in asked])
        if denied:
            refused = [asked[number - 1] for number in denied]
            raise ScriptDenied(
                name, [f"{r.command} {keys[r.key - 1]}" if r.key else r.command for r in refused]
            )


@cache
def _questions(name: str) -> tuple[_Question, ...]:
    """What has to be allowed for a script, each command with the first key of its kind."""
    numbers = {key.name: number for number, key in enumerate(lua_access.keys(name), start=1)}
    return tuple(
        _question(access.command, numbers.get(access.key, 0))
        for access in sorted(lua_access.accesses(name), key=lambda each: (each.command, each.key))
        if access.command != _NOT_ASKED
    )


def _question(command: str, key: int) -> _Question:
    words: list[str | int] = [*command.upper().split("|"), *([key] if key else [])]
    if command == "xreadgroup":
        words = ["XREADGROUP", "GROUP", "g", "c", "STREAMS", key, ">"]
    return _Question(command, key, pack_array(words))
