"""Signed cookies: who has signed in, and the token that this browser's forms carry."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from dataclasses import dataclass
from typing import Final

from itsdangerous import BadSignature, URLSafeTimedSerializer

_COOKIE: Final = "headrace_session"
#: Seconds until a session ends, whatever its user does.
_LASTS_S: Final = 12 * 3_600


@dataclass(frozen=True, slots=True)
class Session:
    #: Random; another one after each sign-in and sign-out.
    id: str
    #: Who has signed in; empty for nobody yet.
    user: str = ""
    #: Of the password by which they did: :attr:`dashboard.access.User.mark`.
    mark: str = ""


class Sessions:
    """Makes and reads them. They are nowhere but in the cookie; kept are those that were ended."""

    def __init__(self, secret: str) -> None:
        self._signer = URLSafeTimedSerializer(
            secret, salt="headrace.session", signer_kwargs={"digest_method": hashlib.sha256}
        )
        self._token_key = hashlib.sha256(f"headrace.csrf {secret}".encode()).digest()
        self._lock = threading.Lock()
        #: Id of a session that was ended -> when, by the monotonic clock; the oldest first.
        self._ended: dict[str, float] = {}

    def new(self, user: str = "", mark: str = "") -> Session:
        return Session(secrets.token_urlsafe(24), user, mark)

    def end(self, session: Session) -> None:
        """Take it for none from now on, whoever has a copy of the cookie; in this process."""
        now = time.monotonic()
        with self._lock:
            self._ended[session.id] = now
            for id, ended in list(self._ended.items()):
                if now - ended <= _LASTS_S:
                    break
                del self._ended[id]

    def read(self, cookies: str) -> Session | None:
        """The session of a request's cookies; None for none, or not ours, or old, or ended."""
        value = _value(cookies)
        if value is None:
            return None
        try:
            id, user, mark = self._signer.loads(value, max_age=_LASTS_S)
        except (BadSignature, ValueError, TypeError):
            return None
        return None if str(id) in self._ended else Session(str(id), str(user), str(mark))

    def cookie(self, session: Session, *, path: str, secure: bool) -> str:
        """The value of Set-Cookie."""
        value = self._signer.dumps([session.id, session.user, session.mark])
        return (
            f"{_COOKIE}={value}; Path={path or '/'}; Max-Age={_LASTS_S}; HttpOnly; SameSite=Strict"
            + ("; Secure" if secure else "")
        )

    def token(self, session: Session) -> str:
        """What a form of this session carries; nobody else can make it."""
        return hmac.new(self._token_key, session.id.encode(), "sha256").hexdigest()


def _value(cookies: str) -> str | None:
    """That of our cookie; of several the first, whose path is the longest (RFC 6265, 5.4).

    What the host's other applications keep in theirs may be no cookie by http.cookies, which would
    read no further.
    """
    for cookie in cookies.split(";"):
        name, mark, value = cookie.strip().partition("=")
        if mark and name == _COOKIE:
            return value
    return None
