"""dramatiq-dashboard's requests and handlers, with users, roles and the audit log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, get_args
from urllib.parse import parse_qsl, quote, unquote, urlencode

from dramatiq.errors import BrokerConnectionError
from dramatiq_dashboard.csrf import csrf_protect
from dramatiq_dashboard.http import (
    HTTP_403,
    HTTP_405,
    Request,
    Response,
    handler,
    redirect,
    templated,
)

from broker.errors import HeadraceError
from dashboard.access import User
from dashboard.audit import note
from dashboard.sessions import Session

#: What a page hands to its template.
Context: TypeAlias = dict[str, Any]
#: The name of their token's field.
TOKEN: Final = "__dd_csrf"  # noqa: S105  # a name, no secret

#: What an operator does; `reveal` is a page of its own.
Verb: TypeAlias = Literal[
    "cancel",
    "promote",
    "retry",
    "delete",
    "pause",
    "resume",
    "close",
    "open",
    "limit",
    "redrive all",
    "delete all",
    "stop",
    "enqueue",
    "pause schedule",
    "resume schedule",
    "run schedule",
]
#: How it ended: as asked, or with nothing to do.
Outcome: TypeAlias = Literal[
    "done",
    "begun",
    "asked",
    "had ended",
    "was not scheduled",
    "was not dead",
    "was paused already",
    "was not paused",
    "was closed already",
    "was not closed",
    "was so already",
]

_MOST_BYTES: Final = 1024 * 1024
_NOBODY: Final = Session("")
#: The parameter by which an action tells the next page what it did.
_DID: Final = "did"


class BadRequest(HeadraceError):
    """The request can't be read, or asks for what there is not."""

    def __init__(self, message: str, status: str = "400 Bad Request") -> None:
        super().__init__(message)
        self.status = status


@dataclass
class PageRequest(Request):  # type: ignore[misc]  # theirs has no types
    """A request, with what the gate has found out about it."""

    address: str = ""
    #: ``https`` or ``http``, and the host by which the browser asked.
    scheme: str = "http"
    host: str = ""
    session: Session = _NOBODY
    #: The one of its cookie; None when it has none that counts.
    arrived: Session | None = None
    #: The gate lets nobody else than a user pass, but for the sign-in.
    user: User | None = None
    environ: Mapping[str, Any] = field(default_factory=dict)
    _form: dict[str, str] | None = None

    @classmethod
    def from_environ(cls, environ: Mapping[str, Any]) -> PageRequest:
        made: PageRequest = super().from_environ(environ)
        made.environ = environ
        # WSGI hands the path over as latin-1, and none for the address of the mount itself.
        made.path = made.path.encode("latin-1").decode("utf-8", "surrogateescape") or "/"
        # Theirs drops what is empty.
        made.params = dict(
            parse_qsl(
                environ.get("QUERY_STRING", ""), keep_blank_values=True, errors="surrogateescape"
            )
        )
        made.address = str(environ.get("REMOTE_ADDR", ""))
        made.scheme = str(environ.get("wsgi.url_scheme", "http"))
        made.host = str(environ.get("HTTP_HOST", ""))
        return made

    @property
    def post_data(self) -> dict[str, str]:
        """The form.

        Raises:
          BadRequest: it is too long, or none.
        """
        if self._form is None:
            length = self.headers.get("content-length") or "0"
            if not length.isdigit():
                raise BadRequest("content-length must be a number")
            if int(length) > _MOST_BYTES:
                raise BadRequest("the form is too long", "413 Content Too Large")
            text = self.body.read(int(length)).decode("utf-8", "surrogateescape")
            self._form = dict(parse_qsl(text, keep_blank_values=True, errors="surrogateescape"))
        return self._form

    @property
    def target(self) -> str:
        """Path and query as one part of an address, escaped."""
        path = quote(self.path, errors="surrogateescape")
        query = self.environ.get("QUERY_STRING", "")
        return f"{path}?{query}" if query else path

    @property
    def theme(self) -> str:
        """``light`` or ``dark``, if the user has chosen one."""
        for name in ("light", "dark"):
            if f"headrace_theme={name}" in str(self.environ.get("HTTP_COOKIE", "")):
                return name
        return ""

    @property
    def operates(self) -> bool:
        return self.user is not None and self.user.operates

    @property
    def did(self) -> str:
        """What the action that has led here did, for people; empty for none."""
        verb, _, outcome = self.params.get(_DID, "").partition(":")
        # The address may be anybody's link: nothing else of it is shown.
        known = verb in get_args(Verb) and outcome in get_args(Outcome)
        return f"{verb.capitalize()}: {outcome}." if known else ""

    def form(self, name: str) -> str:
        """A field of the form.

        Raises:
          BadRequest: there is none of this name.
        """
        try:
            return self.post_data[name]
        except KeyError:
            raise BadRequest(f"the form must have a field {name!r}") from None

    def form_key(self, name: str) -> str:
        """A field that :func:`key` has made, as it was before."""
        return unquote(self.form(name), errors="surrogateescape")


def key(text: str) -> str:
    """Any name or id in ASCII, for forms: bytes that are no text survive as well."""
    return quote(text, safe="", errors="surrogateescape")


@dataclass(frozen=True, slots=True)
class Done:
    """What an action did, for the audit log, and where to go from it."""

    uri: str
    outcome: Outcome
    about: Mapping[str, object] = field(default_factory=dict)


Page: TypeAlias = Callable[..., Any]


def page(template: str) -> Callable[[Page], Page]:
    """A page that is read: the method returns its template's context, or a response."""

    def decorate(method: Page) -> Page:
        made: Page = handler(csrf_protect(templated(template)(method)))
        return made

    return decorate


def action(verb: Verb) -> Callable[[Callable[..., Done | Response]], Page]:
    """What changes or reveals something: by POST, for operators, with a line in the audit log.

    The method returns :class:`Done`, or a response after a note of its own.
    """

    def decorate(method: Callable[..., Done | Response]) -> Page:
        def run(self: Any, request: PageRequest, **names: Any) -> Any:
            if request.method != "POST":
                return HTTP_405, "Expected a POST request."
            if not request.operates:
                noted(request, verb, "refused: role", **names)
                return HTTP_403, "Your role may look, but not act."
            try:
                done = method(self, request, **names)
            except (HeadraceError, BrokerConnectionError, ValueError) as error:
                noted(request, verb, f"failed: {type(error).__name__}", **names)
                raise
            if not isinstance(done, Done):
                return done
            noted(request, verb, done.outcome, **names, **done.about)
            return redirect(_telling(done.uri, verb, done.outcome))

        made: Page = handler(csrf_protect(run))
        return made

    return decorate


def _telling(uri: str, verb: Verb, outcome: Outcome) -> str:
    return f"{uri}{'&' if '?' in uri else '?'}{urlencode({_DID: f'{verb}:{outcome}'})}"


def noted(request: PageRequest, verb: str, outcome: str, **about: object) -> None:
    """Write a request's action into the audit log."""
    user = "" if request.user is None else request.user.name
    given = ("queue", "id", "name", "task")
    told: dict[str, object] = {n: request.post_data[n] for n in given if n in request.post_data}
    told.update(about)
    note(action=verb, user=user, address=request.address, outcome=outcome, **told)
