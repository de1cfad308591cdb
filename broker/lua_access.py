"""Which commands each script runs on which of its keys, read from the scripts' own text.

A server holds the commands inside a script against the permissions of whoever runs it, so this
is what access control has to allow. Where the text does not say which key a command is for, all
keys of the command's type count: the answer may allow a little much, never too little. Every
test of a script runs as a user who may do just that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

from broker.scripts import script

#: What a script may run whose first argument is the key.
_KEY_FIRST: Final = frozenset(
    {
        *("DEL", "EXISTS", "PERSIST", "PEXPIRE", "PTTL", "UNLINK"),
        *("GET", "GETBIT", "SET", "SETBIT", "LLEN", "RPOP", "RPUSH"),
        *("HDEL", "HEXISTS", "HGET", "HGETALL", "HINCRBY", "HLEN", "HMGET"),
        *("HSET", "HSETNX", "HSTRLEN"),
        *("XACK", "XADD", "XAUTOCLAIM", "XCLAIM", "XDEL", "XLEN", "XPENDING", "XRANGE"),
        *("ZADD", "ZCARD", "ZCOUNT", "ZPOPMIN", "ZRANGE", "ZRANGEBYSCORE", "ZRANK", "ZREM"),
        *("ZREMRANGEBYSCORE", "ZREVRANGE", "ZREVRANGEBYSCORE", "ZSCORE"),
    }
)
#: The others, with the position of the key; -1 for none. XREADGROUP GROUP g c COUNT n STREAMS key.
_ELSEWHERE: Final = {"XGROUP": 2, "XINFO": 2, "XREADGROUP": 7, "PUBLISH": -1, "TIME": -1}
#: Everything that scripts run; a test holds it against them.
KNOWN: Final = _KEY_FIRST | _ELSEWHERE.keys()
_SUBCOMMANDS: Final = ("XGROUP", "XINFO")
_TYPES: Final = {"H": "HASH", "X": "STREAM", "Z": "ZSET", "L": "LIST", "R": "LIST"}
_STRINGS: Final = ("GET", "SET", "GETBIT", "SETBIT")
_ANY: Final = ("DEL", "EXISTS", "PERSIST", "PEXPIRE", "PTTL", "UNLINK")
#: Completed in the scripts: a record's key is a hash, a flow has several types.
_PREFIX_TYPES: Final = {"job prefix": ("HASH",), "flow prefix": ("HASH", "LIST", "STREAM")}

#: Includes call these keys by these names, whatever they are given.
_SHARED_NAMES: Final = frozenset(
    {
        *("control", "dead", "dedup", "events", "lapsing"),
        *("messages", "outbox", "recent", "scheduled", "tally", "wake"),
    }
)

#: Functions that hand a key on to one another.
_DEEPEST: Final = 4

_DECLARED = re.compile(
    r"^-- KEYS\[(\d+)(\.\.)?\] +(.+?) +(STREAM|ZSET|HASH|SET|LIST|STRING|prefix)\b", re.MULTILINE
)
_COMMENT = re.compile(r"--.*$", re.MULTILINE)
_WORD = re.compile(r'"([A-Z]{3,})"')


@dataclass(frozen=True, slots=True)
class Key:
    """A key that a script declares, by its name in the script's header."""

    name: str
    types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Access:
    """One command on one key; ``key`` is empty for a command without one."""

    #: As access control lists write it: ``xadd``, ``xgroup|create``.
    command: str
    key: str


@cache
def keys(name: str) -> tuple[Key, ...]:
    """The keys that a script declares."""
    return tuple(_header(script(name).source).values())


@cache
def accesses(name: str) -> frozenset[Access]:
    """What a script may run, and on which of its keys."""
    source = script(name).source
    declared = _header(source)
    rest = next(
        (int(n) for n, more, *_ in _DECLARED.findall(source) if more),
        None,
    )
    code = _COMMENT.sub("", source)
    found: set[Access] = set()
    for word in _WORD.finditer(code):
        command = word[1]
        if command not in KNOWN:
            continue
        arguments = _arguments(code, word.start())
        full = command.lower()
        if command in _SUBCOMMANDS:
            if len(arguments) < 2:
                continue
            full = f"{full}|{arguments[1].strip(chr(34)).lower()}"
        position = _ELSEWHERE.get(command, 1)
        if position < 0:
            found.add(Access(full, ""))
            continue
        expression = arguments[position] if position < len(arguments) else ""
        for meant in _defined(expression, code, word.start()):
            for key in _keys_of(meant, command, declared, rest):
                found.add(Access(full, key))
    return frozenset(found)


def _header(source: str) -> dict[int, Key]:
    found = {}
    for number, _, name, kind in _DECLARED.findall(source):
        full = f"{name} prefix" if kind == "prefix" else name
        found[int(number)] = Key(full, _PREFIX_TYPES.get(full, (kind,)))
    return found


def _defined(expression: str, code: str, position: int, depth: int = 0) -> list[str]:
    """What a variable stands for: a part of a flow, what a function is called with, or itself."""
    if not re.fullmatch(r"\w+", expression) or depth > _DEEPEST:
        return [expression]
    name = rf"\b{expression}\b"
    set_here = re.compile(rf"{name} = |\blocal [\w, ]*{name}[\w, ]* = |\bfunction \w+\(.*{name}")
    before = reversed(code[:position].splitlines())
    # Looked for as text first: a worker's start waits for this.
    last = next((line for line in before if expression in line and set_here.search(line)), "")
    if "part(keys" in last:
        return [last]
    function = re.search(rf"\bfunction (\w+)\((.*{name}.*)\)$", last)
    if function is None:
        return [expression]
    place = [each.strip() for each in function[2].split(",")].index(expression)
    meant: set[str] = set()
    for start, end in _calls(function[1], code):
        arguments = _arguments(code, end)
        if place < len(arguments):
            meant.update(_defined(arguments[place], code, start, depth + 1))
    return sorted(meant)


def _calls(function: str, code: str) -> Iterator[tuple[int, int]]:
    """Where each call of a function begins, and where its arguments do."""
    for found in re.finditer(rf"{function}\(", code):
        before = code[max(0, found.start() - len("function ")) : found.start()]
        if before != "function " and not re.match(r"\w", before[-1:]):
            yield found.span()


def _keys_of(
    expression: str, command: str, declared: dict[int, Key], rest: int | None
) -> list[str]:
    fitting = [key.name for key in declared.values() if _fits(command, key)]
    if "part(keys" in expression or "flow_prefix" in expression:
        return [name for name in fitting if name == "flow prefix"]
    if "job_prefix" in expression or expression == "record":
        return [name for name in fitting if name == "job prefix"]
    if indexed := re.fullmatch(r"KEYS\[(\d+)\]", expression):
        return [declared[min(int(indexed[1]), max(declared))].name]
    if expression.startswith("KEYS[") and rest is not None and declared[rest].name in fitting:
        return [declared[rest].name]
    named = expression.removeprefix("keys.").replace("_", " ")
    if re.fullmatch(r"[a-z ]+", named):
        # An include's `messages` may be the caller's `dead messages`.
        said = [name for name in fitting if _means(named, name)]
        # A key that others have and this script has not: a function that it does not call.
        if said or named in _SHARED_NAMES:
            return said
    return fitting


def _means(variable: str, name: str) -> bool:
    if variable == "recent":
        return name in ("recent", "cancelled", "completed", "dead records")
    return set(variable.split()) <= set(name.split())


def _fits(command: str, key: Key) -> bool:
    if command in _ANY:
        return True
    if command in _STRINGS:
        return key.types == ("STRING",) or key.name == "flow prefix"
    return _TYPES[command[0]] in key.types


def _arguments(code: str, start: int) -> list[str]:
    """The arguments from ``start`` to the parenthesis that closes around it."""
    found: list[str] = []
    depth, begin, quoted = 0, start, False
    for position in range(start, len(code)):
        sign = code[position]
        if sign == '"':
            quoted = not quoted
        elif quoted:
            continue
        elif sign in "([{":
            depth += 1
        elif sign in ")]}":
            if depth == 0:
                return [*found, code[begin:position].strip()]
            depth -= 1
        elif sign == "," and depth == 0:
            found.append(code[begin:position].strip())
            begin = position + 1
    return found
