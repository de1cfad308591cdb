"""Who may use the dashboard, and for what."""

from __future__ import annotations

import hashlib
import ipaddress
import math
import re
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, Final, TypeAlias

from broker.errors import SettingsError
from dashboard import passwords
from dashboard.throttle import Throttle

_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,100}")
#: Passwords that are checked at once: each takes 32 MiB and a core.
_CHECKS_AT_ONCE: Final = 2

Environ: TypeAlias = Mapping[str, Any]


class Role(Enum):
    #: Sees everything but payloads.
    VIEWER = "viewer"
    #: Acts, and reveals payloads.
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class User:
    name: str
    role: Role
    #: Another one after a change of the password; empty where there is none.
    mark: str = field(default="", repr=False)

    @property
    def operates(self) -> bool:
        return self.role is Role.OPERATOR


class WrongPassword(Exception):
    """Name or password is wrong; it is not told which."""


class TooManyTries(Exception):
    """Too many failures by this name or from this address."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"too many failures, try again in {math.ceil(wait_s)} s")
        self.wait_s = wait_s


#: Says who has sent a request, by its WSGI environ; None: nobody it knows.
Identify: TypeAlias = Callable[[Environ], User | None]


@dataclass(frozen=True)
class Access:
    """How users are known: one of the three ways of the class methods, or by nothing at all."""

    identify: Identify | None = None
    users: Users | None = None
    #: Who everybody is, where the dashboard listens to this machine only.
    everybody: User | None = None

    @classmethod
    def by_password(cls, users: Users) -> Access:
        """Users sign in with a name and a password."""
        return cls(users=users)

    @classmethod
    def by(cls, identify: Identify) -> Access:
        """Somebody else knows the users: a proxy, or the application that it is mounted in."""
        return cls(identify=identify)

    @classmethod
    def open_to_this_machine(cls) -> Access:
        """Everybody is an operator; for a server that is bound to loopback, and nothing else."""
        return cls(everybody=User("local", Role.OPERATOR))


class Users:
    """The users of a file or a variable, one a line: ``name:role:hash``. ``#`` begins a comment.

    Raises:
      SettingsError: a line is none, or a name comes twice. The hash is not shown.
    """

    def __init__(self, text: str, *, source: str) -> None:
        self._users: dict[str, tuple[User, str]] = {}
        self._checks = threading.Semaphore(_CHECKS_AT_ONCE)
        self._throttle = Throttle()
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip() and not line.lstrip().startswith("#"):
                user, kept = _parsed(line.strip(), f"{source}, line {number}")
                if user.name in self._users:
                    raise SettingsError(f"{source}, line {number}", user.name, "comes twice")
                self._users[user.name] = (user, kept)
        if not self._users:
            raise SettingsError(source, "", "must have at least one user")

    def get(self, name: str) -> User | None:
        """The user of this name, as the file has it now."""
        found = self._users.get(name)
        return None if found is None else found[0]

    def sign_in(self, name: str, password: str, address: str) -> User:
        """The user of this name and password.

        Raises:
          WrongPassword: nobody has both.
          TooManyTries: nothing was checked.
        """
        keys = (f"name {name[:100]}", f"address {address}")
        if (wait_s := self._throttle.wait_s(keys)) > 0:
            raise TooManyTries(wait_s)
        user, kept = self._users.get(name, (None, self._nobodys_hash))
        # Before the check, which takes a while in which others could try as well.
        self._throttle.failed(keys)
        with self._checks:
            right = passwords.matches(password, kept)
        if user is None or not right:
            raise WrongPassword
        self._throttle.succeeded(keys)
        return user

    @cached_property
    def _nobodys_hash(self) -> str:
        """Checked for names that nobody has: they take as long as the others."""
        return passwords.hashed("")


def _parsed(line: str, where: str) -> tuple[User, str]:
    name, _, rest = line.partition(":")
    role, _, kept = rest.partition(":")
    if not _NAME.fullmatch(name):
        raise SettingsError(where, name, "a name must be 1 to 100 letters, digits or _ . @ -")
    try:
        user = User(name, Role(role), hashlib.sha256(kept.encode()).hexdigest()[:16])
    except ValueError:
        raise SettingsError(where, role, "a role must be viewer or operator") from None
    try:
        passwords.check_hash(kept)
    except ValueError as error:
        raise SettingsError(where, "***", f"is no hash of a password: {error}") from None
    return user, kept


class Proxies:
    """The proxies in front: who speaks for a client, and says so by headers.

    Raises:
      SettingsError: an address is none.
    """

    def __init__(self, addresses: Collection[str]) -> None:
        try:
            self._networks = [ipaddress.ip_network(each) for each in addresses]
        except ValueError as error:
            raise SettingsError(
                "HEADRACE_DASHBOARD_PROXY_ADDRESSES", ",".join(addresses), str(error)
            ) from None

    def include(self, address: str) -> bool:
        """Whether a connection from there is a proxy's."""
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._networks)

    def client_of(self, environ: Environ) -> str:
        """The address of whoever has asked: the last one that a proxy has put down, if it is one's.

        Those before it in ``X-Forwarded-For`` are the client's own words.
        """
        peer = str(environ.get("REMOTE_ADDR", ""))
        told = str(environ.get("HTTP_X_FORWARDED_FOR", "")).rpartition(",")[2].strip()
        return told if told and self.include(peer) else peer


class ProxyHeader:
    """Users as a proxy in front has found them out, which says so by a header.

    The header counts only when the connection comes from one of the proxy's addresses; the proxy
    must drop the header of requests that bring it along.
    """

    def __init__(self, header: str, proxies: Proxies, operators: Collection[str]) -> None:
        self._variable = "HTTP_" + header.upper().replace("-", "_")
        self._proxies = proxies
        self._operators = frozenset(operators)

    def __call__(self, environ: Environ) -> User | None:
        name = environ.get(self._variable, "")
        if not _NAME.fullmatch(name) or not self._proxies.include(environ.get("REMOTE_ADDR", "")):
            return None
        return User(name, Role.OPERATOR if name in self._operators else Role.VIEWER)
