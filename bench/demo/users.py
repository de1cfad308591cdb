"""Who logs in to the demo's server: the users of `headrace acl`, each for its part."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from actors.app import build_broker
from broker import StreamsBroker
from broker.roles import ROLES, RoleName, user
from broker.settings import Settings

#: The server's administrator, who has none of the roles: is asked what was refused.
_OWNER: Final = "owner"


class Users:
    """The roles' users, each with a password of its own; but for the owner nobody else gets in."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._passwords = {name: secrets.token_urlsafe(16) for name in (*ROLES, _OWNER)}
        self._server = ""

    def write(self, file: Path) -> str:
        """The ACL file with which the server starts; its path."""
        own = [f"{{{self.namespace}}}:*"]
        lines = [
            user(role, self.namespace, own=own, password=self._passwords[role]).line
            for role in ROLES
        ]
        owner = f"user {_OWNER} on >{self._passwords[_OWNER]} ~* &* +@all"
        file.write_text("\n".join(["user default off", owner, *lines, ""]), encoding="utf-8")
        return str(file)

    def at(self, server_url: str) -> Users:
        """The server is there from now on."""
        self._server = server_url
        return self

    def url(self, role: RoleName | None) -> str:
        """By which a role logs in; None: nobody does."""
        return self._server if role is None else self._login(f"headrace-{role}", role)

    @property
    def owner_url(self) -> str:
        """By which everything is allowed."""
        return self._login(_OWNER, _OWNER)

    def _login(self, name: str, whose: str) -> str:
        return self._server.replace("://", f"://{name}:{self._passwords[whose]}@")


@dataclass(frozen=True)
class Brokers:
    """The demo's own ways to the server, each with the rights of one role."""

    #: Sends jobs and starts flows.
    producer: StreamsBroker
    #: Pauses, cancels, redrives, and reads what belongs to the application.
    operator: StreamsBroker
    #: Looks.
    viewer: StreamsBroker

    @classmethod
    def build(cls, environ: Mapping[str, str], users: Users) -> Brokers:
        """Not connected yet."""
        roles: tuple[RoleName, ...] = ("producer", "admin", "dashboard")
        return cls(
            *(
                build_broker(Settings.load({**environ, "REDIS_URL": users.url(role)}))
                for role in roles
            )
        )

    def close(self) -> None:
        """Close their connections."""
        for each in (self.producer, self.operator, self.viewer):
            each.close()
