"""Where the server is and how to get there: REDIS_URL or its parts, login and TLS."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import redis

from broker.configuration import HIDDEN, value_of
from broker.errors import SettingsError

_SCHEMES: Final = ("redis", "rediss", "unix")
#: Variables that name files, with redis-py's names for them.
_TLS_FILES: Final = {
    "REDIS_TLS_CA_FILE": "ssl_ca_certs",
    "REDIS_TLS_CERT_FILE": "ssl_certfile",
    "REDIS_TLS_KEY_FILE": "ssl_keyfile",
}
_CERT_AND_KEY: Final = ("REDIS_TLS_CERT_FILE", "REDIS_TLS_KEY_FILE")


def server_url(environ: Mapping[str, str]) -> str:
    """The server by REDIS_URL, or by its parts; its TLS files are in the query.

    Raises:
      SettingsError: a variable breaks its rule, or a file can't be read. Shows no password.
    """
    url = value_of(environ, "REDIS_URL")
    url = _url_of_parts(environ) if url is None else _with_login(_checked_url(url), environ)
    return _with_tls(url, environ)


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for what is no port
    except ValueError as error:
        raise SettingsError("REDIS_URL", HIDDEN, f"is no URL: {_reason(error)}") from None
    # An @ further on means that a / in the password was not written as %2F, or a ? as %3F.
    shown = HIDDEN if "@" in parts.path + parts.query else without_password(url)
    if parts.scheme not in _SCHEMES:
        expected = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        # Without a scheme there is no telling what of it is a password.
        shown = f"{parts.scheme}://{HIDDEN}" if parts.scheme else HIDDEN
        raise SettingsError("REDIS_URL", shown, f"must begin with one of {expected}")
    if parts.scheme == "unix":
        if not parts.path:
            raise SettingsError(
                "REDIS_URL", shown, "must name a socket, as in unix:///run/redis.sock"
            )
    elif not parts.hostname:
        raise SettingsError("REDIS_URL", shown, "must name a host")
    elif not re.fullmatch(r"/?\d*", parts.path):
        raise SettingsError(
            "REDIS_URL", shown, "the path must be the number of a database, as in /0"
        )
    if parts.query and (problem := _problem_of_options(url)) is not None:
        rule = "must have no options but such as redis-py takes"
        if shown == HIDDEN:
            raise SettingsError("REDIS_URL", HIDDEN, rule)
        # What is no option may be a slip for `password`.
        shown = without_password(urlunsplit(parts._replace(query=HIDDEN)))
        raise SettingsError("REDIS_URL", shown, f"{rule} ({problem})")
    return url


def _problem_of_options(url: str) -> str | None:
    """What redis-py says against the query, of which it makes arguments of a connection."""
    try:
        pool = redis.ConnectionPool.from_url(url)
        pool.connection_class(**pool.connection_kwargs)  # does not connect
    except (AttributeError, TypeError, ValueError, redis.RedisError) as error:
        return str(error).rstrip(".")
    return None


def _reason(error: ValueError) -> str:
    # urllib quotes the port it could not read, which after a typing slip is part of a password.
    return "bad port" if "ort" in str(error) else "bad host"


def _url_of_parts(environ: Mapping[str, str]) -> str:
    host = value_of(environ, "REDIS_HOST") or "localhost"
    if re.search(r"[\s/@?#]", host):
        raise SettingsError("REDIS_HOST", host, "must be a host name or an address")
    port = _port(value_of(environ, "REDIS_PORT") or "6379")
    address = f"[{host}]" if ":" in host and not host.startswith("[") else host
    scheme = "rediss" if _wants_tls(environ) else "redis"
    return f"{scheme}://{_login(environ)}{address}:{port}/0"


def _login(environ: Mapping[str, str]) -> str:
    user = value_of(environ, "REDIS_USERNAME")
    password = value_of(environ, "REDIS_PASSWORD")
    if user is None and password is None:
        return ""
    return f"{quote(user or '', safe='')}:{quote(password or '', safe='')}@"


def _with_login(url: str, environ: Mapping[str, str]) -> str:
    """A URL without a login takes that of the parts, whose password may be in a file."""
    parts = urlsplit(url)
    if "@" in parts.netloc or "password=" in parts.query:
        return url
    return url.replace("://", f"://{_login(environ)}", 1)


def _wants_tls(environ: Mapping[str, str]) -> bool:
    found = value_of(environ, "REDIS_TLS") or "false"
    if found not in ("true", "false"):
        raise SettingsError("REDIS_TLS", found, "must be true or false")
    return found == "true"


def _with_tls(url: str, environ: Mapping[str, str]) -> str:
    parts = urlsplit(url)
    files = {name: value_of(environ, name) for name in _TLS_FILES}
    given = {name: path for name, path in files.items() if path is not None}
    if parts.scheme != "rediss":
        for name, path in given.items():
            raise SettingsError(name, path, "needs TLS: a REDIS_URL with rediss://, or REDIS_TLS")
        if _wants_tls(environ):
            rule = "must begin with rediss:// where REDIS_TLS is true"
            raise SettingsError("REDIS_URL", without_password(url), rule)
        return url
    if re.search(r"\bssl_(cert_reqs|check_hostname)=", parts.query):
        # Whoever is in between could read everything and hand out jobs.
        rule = "must not switch the check of the certificate off; REDIS_TLS_CA_FILE trusts your own"
        raise SettingsError("REDIS_URL", without_password(url), rule)
    for name, other in (_CERT_AND_KEY, _CERT_AND_KEY[::-1]):
        if name in given and other not in given:
            raise SettingsError(other, None, f"is needed beside {name}")
    for name, path in given.items():
        _check_readable(name, path)
    query = urlencode({_TLS_FILES[name]: path for name, path in given.items()})
    return urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, query)))))


def _check_readable(name: str, path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise SettingsError(name, path, f"can't be read ({error.strerror})") from error


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65_535):
        raise SettingsError("REDIS_PORT", text, "must be a number from 1 to 65535")
    return int(text)


def without_password(url: str) -> str:
    """The URL as it may be shown; one that can't be parsed is not shown at all."""
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError:
        return HIDDEN
    if "password=" in parts.query:
        parts = parts._replace(query=HIDDEN)
    if password is None:
        return urlunsplit(parts)
    user, host = parts.netloc.rsplit("@", 1)
    return urlunsplit(parts._replace(netloc=f"{user.split(':', 1)[0]}:{HIDDEN}@{host}"))
