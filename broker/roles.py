"""Redis users for the roles: each may run the commands of its scripts, on their keys, and no more.

What the scripts need is read from their text (:mod:`broker.lua_access`); what is run without a
script stands here. A rule is a selector of access control lists: commands with the keys that
they may be run on. So who may add to a ready stream may not read it.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, get_args

from broker import lua_access
from broker.errors import InvalidOption
from broker.keys import cancel_channel, intake_keys, leader_key, notices_key, queues_key
from broker.scripts import names

RoleName: TypeAlias = Literal["producer", "worker", "scheduler", "dashboard", "admin"]
ROLES: Final[tuple[RoleName, ...]] = get_args(RoleName)

#: Keys by their names in the scripts' headers: what follows the queue's tag, as a pattern.
_OF_A_QUEUE: Final[Mapping[str, tuple[str, ...]]] = {
    "cancelled": ("recent:cancelled",),
    "completed": ("recent:completed",),
    "control": ("control",),
    "dead": ("dead",),
    "dead messages": ("dead:messages",),
    "dead records": ("recent:dead",),
    "deadlines": ("flows:deadlines",),
    "dedup": ("dedup",),
    "events": ("events",),
    "flow": ("flow:*",),
    "flow prefix": ("flow:*",),
    "holds": ("limit:*",),
    "job prefix": ("job:*",),
    "key": ("limit:*",),
    "lapsing": ("dedup:lapsing",),
    "line": ("slots-line:*",),
    "messages": ("scheduled:messages",),
    "outbox": ("outbox",),
    "rate": ("limit:*",),
    "rate line": ("rate-line:*",),
    "ready": ("ready:*",),
    "recent": ("recent:*",),
    "results": ("flow:*",),
    "scheduled": ("scheduled",),
    "schedules": ("schedules",),
    "slots": ("slots:*",),
    "slots line": ("slots-line:*",),
    "state": ("schedules:state",),
    "taken": ("taken:*",),
    "tally": ("tally",),
    "wake": ("wake",),
}
#: A header's name that means something else in one script.
_ELSEWHERE: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("replace", "messages"): ("scheduled:messages", "dead:messages"),
    ("set_aside", "aside"): ("intake",),
    ("set_aside", "events"): ("intake",),
    # The application's own streams: `own` names them.
    **{
        (script, "events"): ()
        for script in ("held_events", "look_group", "reap_group", "stalled_events")
    },
    ("permitted", "asked"): (),
    **{(script, "leader"): ("leader",) for script in ("lead",)},
    **{(script, "notices"): ("notices",) for script in ("take_turn", "end_turn")},
}

#: What redis-py says when it connects, and what has no key.
_CONNECTING: Final = ("+@connection", "-@dangerous", "+time")
_CLUSTER: Final = ("+cluster|slots", "+cluster|shards", "+cluster|info", "+cluster|myid")
#: On the application's own keys: every type, and no command that does without a key.
_OWN: Final = (
    *("+@bitmap", "+@geo", "+@hash", "+@hyperloglog", "+@list", "+@set", "+@sortedset"),
    *("+@stream", "+@string", "-@dangerous", "+del", "+exists", "+expire", "+expireat"),
    *("+persist", "+pexpire", "+pexpireat", "+pttl", "+ttl", "+type", "+unlink"),
)

_LOOKING: Final = frozenset(
    {
        *("find_ended", "find_ready", "find_scheduled"),
        *("inspect", "jobs", "letters", "schedules"),
    }
)
_SENDING: Final = frozenset({"enqueue", "schedule", "start_flow", "release_branches", "receive"})
_OPERATING: Final = frozenset(
    {
        *(
            "close",
            "drop_dead",
            "fire",
            "letters",
            "open",
            "pass_over",
            "pause",
            "pause_schedule",
            "promote",
            "purge",
        ),
        *("put_schedule", "redrive", "remove_schedule", "replace", "resume", "resume_schedule"),
    }
)

_DirectAccess: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]
_SEND: Final[tuple[_DirectAccess, ...]] = (
    (("sadd",), ("queues",)),
    (("hset", "expire"), ("flow:*",)),
    (("xdel",), ("outbox",)),
)
_READ: Final[tuple[_DirectAccess, ...]] = (
    (("smembers",), ("queues",)),
    (("xlen", "xrange", "xpending", "xinfo|stream", "xinfo|consumers"), ("ready:*",)),
    (("xinfo|consumers",), ("wake",)),
    (("zcard", "zrange", "zrevrange", "zscan"), ("scheduled", "recent:*")),
    (("zcard", "zcount", "zrange", "zrevrange", "zscan", "zscore"), ("dead",)),
    (("hget", "hmget", "hlen", "hstrlen"), ("dead:messages",)),
    (("hlen",), ("scheduled:messages",)),
    (("hmget",), ("control",)),
    (("hgetall",), ("tally",)),
    (("xread", "xrevrange", "xlen", "xinfo|stream"), ("events",)),
    (("hgetall", "hmget", "get", "xread"), ("flow:*",)),
    (("zrange",), ("flows:deadlines",)),
    (("hget", "hmget", "hkeys", "zrevrange"), ("intake",)),
)
_WORK: Final[tuple[_DirectAccess, ...]] = (
    (("xreadgroup",), ("ready:*", "wake")),
    (("hmget",), ("control",)),
    (("xtrim",), ("events",)),
    (("xrange", "xdel"), ("outbox",)),
    (("zrange",), ("flows:deadlines",)),
    (("hget",), ("dead:messages",)),
    (("zscore",), ("dead",)),
    (("zrem", "zrange"), ("taken:*",)),
    (("hget", "hset", "hkeys"), ("intake",)),
)
_SUBSCRIBE: Final[tuple[_DirectAccess, ...]] = (
    (("xgroup|create", "xgroup|delconsumer", "xreadgroup", "xautoclaim", "xack"), ("events",)),
    (("xpending",), ("events",)),
)


@dataclass(frozen=True, slots=True)
class _Role:
    scripts: frozenset[str]
    direct: tuple[_DirectAccess, ...]
    #: Rules without keys, beside those that every client needs.
    keyless: tuple[str, ...] = ()
    #: It hears or says which job is to be cancelled.
    cancels: bool = False
    reads_only: bool = False


def _roles() -> Mapping[RoleName, _Role]:
    everything = frozenset(names())
    return {
        "producer": _Role(_SENDING, _SEND),
        "worker": _Role(
            everything - _OPERATING,
            (*_SEND, *_READ, *_WORK, *_SUBSCRIBE),
            ("+info", "+client|unblock", "+publish", "+subscribe"),
            cancels=True,
        ),
        "scheduler": _Role(
            frozenset({"schedules", "put_schedule", "fire", "pass_over"}),
            ((("sadd", "smembers"), ("queues",)), (("hset",), ("schedules:state",))),
        ),
        "dashboard": _Role(_LOOKING, _READ, ("+info",), reads_only=True),
        "admin": _Role(
            everything,
            (*_SEND, *_READ, *_WORK, *_SUBSCRIBE, (("hget",), ("scheduled:messages",))),
            ("+info", "+client|unblock", "+publish", "+subscribe", "+script|load"),
            cancels=True,
        ),
    }


@dataclass(frozen=True, slots=True)
class User:
    """One Redis user, as its rules."""

    name: str
    role: RoleName
    rules: tuple[str, ...] = field(repr=False)

    @property
    def line(self) -> str:
        """A line of an ACL file."""
        return f"user {self.name} {' '.join(self.rules)}"


def user(
    role: RoleName,
    namespace: str,
    *,
    name: str | None = None,
    queues: Iterable[str] | None = None,
    own: Sequence[str] = (),
    password: str | None = None,
) -> User:
    """The user for a role.

    Args:
      queues: the queues it may touch; None: all of the namespace.
      own: patterns of keys that are the application's, which its jobs read and write: for
        workers and admins.
      password: its hash is among the rules; without one nobody can log in yet.

    Raises:
      InvalidOption: a name or a pattern would end a rule early.
    """
    called = f"headrace-{role}" if name is None else name
    for what, text in (("name", called), ("namespace", namespace), *(("own", p) for p in own)):
        if not text or re.search(r"[\s()%~]", text):
            raise InvalidOption(what, text, "must be without blanks, parentheses, % and ~")
    which = _roles()[role]
    tags = ["*"] if queues is None else [_literal(queue) for queue in queues]
    places = _Places(namespace, tags)
    own_keys = own if role in ("worker", "admin") else ()
    login = "resetpass" if password is None else f"#{hashlib.sha256(password.encode()).hexdigest()}"
    own_rules = [f"({' '.join((*_OWN, *(f'~{pattern}' for pattern in own_keys)))})"]
    rules = (
        *("reset", "on", login, *_CONNECTING, *_CLUSTER, *which.keyless),
        *((f"&{_literal(cancel_channel(namespace))}",) if which.cancels else ()),
        *(
            f"({' '.join(f'+{command}' for command in sorted(commands))} {' '.join(keys)})"
            for commands, keys in _selectors(which, places, own_keys)
        ),
        *(own_rules if own_keys else ()),
    )
    return User(called, role, rules)


class _Places:
    """From a place to the patterns of its keys."""

    def __init__(self, namespace: str, queues: Sequence[str]) -> None:
        self._namespace = namespace
        self._queues = queues

    def patterns(self, place: str) -> list[str]:
        ns = self._namespace
        of_all = {
            "queues": queues_key(ns),
            "notices": notices_key(ns),
            "leader": leader_key(ns, "*"),
            "intake": intake_keys(ns)[0].removesuffix("aside") + "*",
        }
        if place in of_all:
            found = of_all[place]
            ends = found.endswith("*")
            return [_literal(found.removesuffix("*")) + ("*" if ends else "")]
        return [f"{{{_literal(ns)}:{queue}}}:{place}" for queue in self._queues]


def _selectors(
    role: _Role, places: _Places, own: Sequence[str]
) -> Iterator[tuple[frozenset[str], list[str]]]:
    """Commands with the keys that they may be run on; what goes together is together."""
    sign = "%R~" if role.reads_only else "~"
    by_place: dict[str, set[str]] = defaultdict(set)
    for script in sorted(role.scripts):
        for access in lua_access.accesses(script):
            for place in _places_of(script, access.key):
                by_place[place].add(access.command)
    for commands, of in role.direct:
        for place in of:
            by_place[place].update(commands)
        if len(of) > 1 and "xreadgroup" in commands:  # both in one command
            yield (
                frozenset(commands),
                [sign + p for place in of for p in places.patterns(place)],
            )
    together: dict[frozenset[str], list[str]] = defaultdict(list)
    for place, run in sorted(by_place.items()):
        together[frozenset(run)] += [sign + p for p in places.patterns(place)]
    yield from together.items()
    declared = sorted({place for script in role.scripts for place in _declared(script)})
    every = [f"~{p}" for place in declared for p in places.patterns(place)]
    # Of a script all keys are checked at once, and each as if it were written.
    yield frozenset({"evalsha", "eval"}), [*every, *(f"~{pattern}" for pattern in own)]


def _declared(script: str) -> set[str]:
    return {place for key in lua_access.keys(script) for place in _places_of(script, key.name)}


def _places_of(script: str, key: str) -> tuple[str, ...]:
    if not key:
        return ()
    found = _ELSEWHERE.get((script, key))
    return _OF_A_QUEUE[key] if found is None else found


def _literal(text: str) -> str:
    """The text as a pattern that matches it alone."""
    return re.sub(r"([*?\[\]\\^])", r"\\\1", text)
