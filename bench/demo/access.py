"""What the users of the roles were refused, and whether that is what it should be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import redis

from bench.demo.checks import Check
from bench.demo.jobs import FIRED
from bench.demo.journal import History
from bench.demo.users import Users
from broker.keys import QueueKeys
from broker.roles import ROLES, RoleName

#: What redis-py says of itself when it connects, and does without.
_INTRODUCTION: Final = "client|setinfo"
_READY: Final = "{ready}"
#: What nobody of these may do; None is somebody without a password.
_ATTEMPTS: Final[tuple[tuple[RoleName | None, tuple[str, ...]], ...]] = (
    ("producer", ("XRANGE", _READY, "-", "+")),
    ("scheduler", ("XREADGROUP", "GROUP", "workers", "me", "STREAMS", _READY, ">")),
    ("dashboard", ("XADD", _READY, "*", "id", "1")),
    ("worker", ("FLUSHALL",)),
    ("admin", ("CONFIG", "GET", "*")),
    (None, ("PING",)),
)
_PAGES: Final = ("", "workers", "schedules", "flows", "events", "search")


@dataclass
class Access:
    """What the users did and did not get."""

    #: Commands that a role's work wanted and the server refused: user, command, where.
    refused: list[tuple[str, str, str]] = field(default_factory=list)
    #: Of what has to be refused, who was let through with which.
    let_through: list[str] = field(default_factory=list)
    fires: int = 0
    #: The dashboard's pages with their statuses.
    pages: dict[str, int] = field(default_factory=dict)

    def gather(self, users: Users, history: History, queue: str) -> None:
        """Read what was refused during the run; then try what has to be."""
        with redis.Redis.from_url(users.owner_url) as owner:
            rows: list[Any] = owner.acl_log()
        self.refused = [
            (row["username"], row["object"], row["context"])
            for row in rows
            if row["object"] != _INTRODUCTION
        ]
        self.fires = sum(bool(history.noted_ms(id, FIRED)) for id in history.notes)
        self.let_through = list(_let_through(users, queue))

    def read_pages(self, url: str, queues: Iterable[str]) -> None:
        """Read the dashboard's pages as a browser does."""
        for page in (*_PAGES, *(f"queues/{queue}/jobs" for queue in queues)):
            self.pages[page] = httpx.get(url + page, trust_env=False).status_code


def _let_through(users: Users, queue: str) -> Iterator[str]:
    ready = QueueKeys(users.namespace, queue, 0).ready[0]
    for role, command in _ATTEMPTS:
        with redis.Redis.from_url(users.url(role)) as client:
            try:
                client.execute_command(*(ready if part == _READY else part for part in command))
            except (redis.exceptions.NoPermissionError, redis.AuthenticationError):
                continue
        yield f"{role or 'nobody'} {command[0]}"


def check_access(found: Access) -> Check:
    """Nobody was refused what its work takes, and everybody what it does not."""
    faults = [f"{name} was refused {what} ({where})" for name, what, where in found.refused]
    faults += [f"{each} was let through" for each in found.let_through]
    faults += [f"page /{page}: {code}" for page, code in found.pages.items() if code != 200]
    if not found.fires:
        faults.append("the scheduler made no fire")
    attempts = ", ".join(f"{role or 'nobody'} {command[0]}" for role, command in _ATTEMPTS)
    line = (
        f"nothing was refused to {len(ROLES)} users at work: {found.fires} fires by the scheduler, "
        f"{len(found.pages)} pages by the dashboard; and what should be was: {attempts}"
    )
    return Check("access", line, faults)
