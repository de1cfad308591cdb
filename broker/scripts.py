"""Loads the Lua scripts and runs them by their digest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any, Protocol, TypeAlias

from redis.exceptions import NoScriptError

Argument: TypeAlias = str | bytes | int

_INCLUDE = re.compile(r"^--@include (\w+)$", re.MULTILINE)


class Client(Protocol):
    """What redis.Redis and redis.RedisCluster have in common that scripts need."""

    def execute_command(self, *args: Any, **options: Any) -> Any: ...


class Script:
    """One transition: the text of ``lua/<name>.lua`` with its includes put in."""

    def __init__(self, name: str) -> None:
        folder = resources.files("broker") / "lua"
        text = (folder / f"{name}.lua").read_text("utf-8")
        self.name = name
        self.source = _INCLUDE.sub(
            lambda found: (folder / "include" / f"{found[1]}.lua").read_text("utf-8"), text
        )
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def run(self, client: Client, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run the script, sending its text only when the server does not know it (any more)."""
        try:
            return client.execute_command("EVALSHA", self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return client.execute_command("EVAL", self.source, len(keys), *keys, *args)


@cache
def script(name: str) -> Script:
    """The script of a transition, loaded once a process."""
    return Script(name)


def names() -> list[str]:
    """The names of all scripts, sorted."""
    files = (resources.files("broker") / "lua").iterdir()
    return sorted(file.name.removesuffix(".lua") for file in files if file.name.endswith(".lua"))
