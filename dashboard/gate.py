"""What every request passes before a page sees it, and what every answer gets."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from typing import Final

from dashboard.access import Access, User
from dashboard.audit import note
from dashboard.sessions import Session, Sessions
from dashboard.web import TOKEN, BadRequest, PageRequest

#: Names by which a browser reaches this machine alone. Any other one may be an attacker's, whose
#: name server says that it is here: the browser would take their pages and ours for one site.
_LOOPBACK = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?")
_FRAMES: Final = ("iframe", "frame", "embed", "object", "fencedframe")
_READ: Final = ("GET", "HEAD")

_HEADERS: Final = (
    (
        "Content-Security-Policy",
        (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
            "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        ),
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
)
_NOT_KEPT: Final = ("Cache-Control", "no-store")
_KEPT: Final = ("Cache-Control", "private, max-age=3600")


class Gate:
    """Finds out who has sent a request, and turns away what no page of ours has sent."""

    def __init__(self, access: Access, sessions: Sessions, prefix: str) -> None:
        self._access = access
        self._sessions = sessions
        self._prefix = prefix

    def admit(self, request: PageRequest) -> None:
        """Fill in the request's session and user.

        Raises:
          BadRequest: it is forged, or framed, or of a method that nothing here has.
        """
        if request.method not in (*_READ, "POST"):
            raise BadRequest("the methods are GET and POST", "405 Method Not Allowed")
        if self._access.everybody is not None and not _LOOPBACK.fullmatch(request.host):
            raise self._refused(request, "host", "421 Misdirected Request")
        self._check_site(request)
        cookies = request.headers.get("cookie", "")
        request.arrived = self._sessions.read(cookies)
        request.session = request.arrived or self._sessions.new()
        request.user = self._user(request)
        token = self._sessions.token(request.session)
        if request.method == "POST":
            given = request.post_data.get(TOKEN, "")
            if not hmac.compare_digest(given.encode("utf-8", "replace"), token.encode()):
                raise self._refused(request, "token")
        # Where their csrf_protect looks for the token: the session's, whatever the browser sent.
        request.headers["cookie"] = f"{TOKEN}={token}"

    def _user(self, request: PageRequest) -> User | None:
        access = self._access
        if access.everybody is not None:
            return access.everybody
        if access.identify is not None:
            return access.identify(request.environ)
        if access.users is None:
            return None
        found = access.users.get(request.session.user)
        # A changed password ends the sessions that were begun with the old one.
        return found if found is not None and found.mark == request.session.mark else None

    def _check_site(self, request: PageRequest) -> None:
        site = request.headers.get("sec-fetch-site")
        if request.headers.get("sec-fetch-dest") in _FRAMES:
            raise self._refused(request, "framed")
        if request.method == "POST":
            # Browsers that know no Sec-Fetch-Site send an Origin with every POST.
            origin = request.headers.get("origin")
            ours = f"{request.scheme}://{request.host}"
            if site != "same-origin" if site is not None else origin != ours:
                raise self._refused(request, "cross-site")
        # A link from elsewhere is fine; what a foreign page loads into itself is not.
        elif (
            site not in (None, "same-origin", "none")
            and request.headers.get("sec-fetch-mode") != "navigate"
        ):
            raise self._refused(request, "cross-site")

    def _refused(self, request: PageRequest, why: str, status: str = "403 Forbidden") -> BadRequest:
        note(
            action=f"{request.method} {request.path}",
            user="",
            address=request.address,
            outcome=f"refused: {why}",
        )
        return BadRequest("This request did not come from a page of this dashboard.", status)

    def dressed(
        self, headers: Iterable[tuple[str, str]], request: PageRequest, *, static: bool = False
    ) -> list[tuple[str, str]]:
        """The headers of an answer with ours; their cookie is not needed, the session's is."""
        kept = [each for each in headers if each[0].lower() != "set-cookie"]
        # One that is there is not sent again: its time would begin anew.
        if not static and request.session.id and request.session != request.arrived:
            kept.append(("Set-Cookie", self.cookie(request, request.session)))
        return [*kept, *_HEADERS, _KEPT if static else _NOT_KEPT]

    def cookie(self, request: PageRequest, session: Session) -> str:
        secure = request.scheme == "https"
        return self._sessions.cookie(session, path=self._prefix, secure=secure)
