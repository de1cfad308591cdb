"""Signed cookies: who has signed in, and the token that this browser's forms carry."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
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


class Sessions:
    """Makes and reads them. They are nowhere but in the cookie."""

    def __init__(self, secret: str) -> None:
        self._signer = URLSafeTimedSerializer(
            secret, salt="headrace.session", signer_kwargs={"digest_method": hashlib.sha256}
        )
        self._token_key = hashlib.sha256(f"headrace.csrf {secret}".encode()).digest()

    def new(self, user: str = "") -> Session:
        return Session(secrets.token_urlsafe(24), user)

    def read(self, cookies: str) -> Session | None:
        """The session of a request's cookies; None for none, or not ours, or old."""
        try:
            morsel = SimpleCookie(cookies).get(_COOKIE)
        except CookieError:
            return None
        if morsel is None:
            return None
        try:
            id, user = self._signer.loads(morsel.value, max_age=_LASTS_S)
        except (BadSignature, ValueError, TypeError):
            return None
        return Session(str(id), str(user))

    def cookie(self, session: Session, *, path: str, secure: bool) -> str:
        """The value of Set-Cookie."""
        value = self._signer.dumps([session.id, session.user])
        return (
            f"{_COOKIE}={value}; Path={path or '/'}; Max-Age={_LASTS_S}; HttpOnly; SameSite=Strict"
            + ("; Secure" if secure else "")
        )

    def token(self, session: Session) -> str:
        """What a form of this session carries; nobody else can make it."""
        return hmac.new(self._token_key, session.id.encode(), "sha256").hexdigest()
