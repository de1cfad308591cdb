"""The WSGI application: dramatiq-dashboard's, answered by the inspector and safe on a network."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, Final
from urllib.parse import urlencode

from dramatiq.errors import BrokerConnectionError
from dramatiq.logging import get_logger
from dramatiq_dashboard import DashboardApp
from dramatiq_dashboard.http import HTTP_404, HTTP_405, Response, handler, make_response, redirect
from jinja2 import Environment, pass_context
from jinja2.runtime import Context

from broker.broker import StreamsBroker
from broker.errors import HeadraceError
from broker.jobs import JobUnknown
from dashboard import theme
from dashboard.access import Access, Proxies
from dashboard.filters import FILTERS
from dashboard.gate import Gate
from dashboard.interface import InspectorInterface
from dashboard.pages.base import Pages
from dashboard.pages.dead import DeadPages
from dashboard.pages.enqueue import EnqueuePages
from dashboard.pages.events import EventPages
from dashboard.pages.flows import FlowPages
from dashboard.pages.jobs import JobPages
from dashboard.pages.overview import OverviewPages
from dashboard.pages.queues import QueuePages
from dashboard.pages.schedules import SchedulePages
from dashboard.pages.search import SearchPages
from dashboard.pages.sign_in import SignInPages
from dashboard.pages.workers import WorkerPages
from dashboard.sampler import Sampler
from dashboard.sessions import Session, Sessions
from dashboard.settings import Links
from dashboard.tasks import Tasks
from dashboard.web import TOKEN, BadRequest, PageRequest, key

_STATIC: Final[Mapping[str, str]] = {
    "base.css": "text/css; charset=utf-8",
    "headrace.css": "text/css; charset=utf-8",
    "headrace.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_PAGES: Final[tuple[type[Pages], ...]] = (
    OverviewPages,
    QueuePages,
    JobPages,
    DeadPages,
    SchedulePages,
    WorkerPages,
    EventPages,
    EnqueuePages,
    SearchPages,
    FlowPages,
    SignInPages,
)
#: Their names of a queue's parts, and the states of ours that they show.
_TABS: Final = {"standard": "queued", "delayed": "scheduled", "failed": "dead"}


class Dashboard(DashboardApp):  # type: ignore[misc]  # theirs has no types
    """A WSGI application. It does nothing until it is asked, but for its ``sampler``."""

    broker: StreamsBroker
    templates: Environment

    def __init__(
        self,
        broker: StreamsBroker,
        prefix: str = "",
        *,
        access: Access,
        secret: str | None = None,
        links: Links | None = None,
        proxies: Proxies | None = None,
    ) -> None:
        """
        Args:
          prefix: the path that the application is mounted under; requests come without it.
          access: who may come in.
          secret: signs sessions; the same in every process. None: a new one.
          proxies: in front of it; they know the address of whoever asks.
        """
        super().__init__(broker, prefix)
        self.iface = InspectorInterface(broker)
        self.prefix = prefix
        self.access = access
        self.sessions = Sessions(secrets.token_urlsafe(32) if secret is None else secret)
        self.gate = Gate(access, self.sessions, prefix)
        self.sampler = Sampler(broker)
        self.tasks = Tasks()
        self.links = Links() if links is None else links
        self.proxies = Proxies(()) if proxies is None else proxies
        self._logger = get_logger(__name__, type(self))
        self._files = {name: _file(name) for name in _STATIC}
        self.templates.loader = theme.loader()
        self.templates.filters.update(FILTERS, key=key)
        self.templates.globals.update(
            make_uri=self.uri,
            asset=self.asset,
            links=self.links,
            access=access,
            pages=self.pages,
            csrf_token=self._token_field,
        )
        self._add_pages()

    def _add_pages(self) -> None:
        not_found = self._dispatch_table.pop()  # theirs takes whatever comes, and comes last
        for pages in _PAGES:
            for pattern, method in pages(self).routes():
                self.add_route(pattern, method)
        self._dispatch_table.append(not_found)

    def pages(self) -> list[tuple[str, str]]:
        """Path and name of the pages that every page leads to."""
        return [
            ("", "Overview"),
            ("search", "Search"),
            ("schedules", "Schedules"),
            ("flows", "Flows"),
            ("workers", "Workers"),
            ("events", "Events"),
            *([("enqueue", "New job")] if self.broker.actors else []),
        ]

    def uri(self, *segments: object, params: Mapping[str, object] | None = None) -> str:
        """The address of a page; parts of its path are escaped, and parameters that are None left
        out."""
        path = "/".join(key(str(segment)) if segment else "" for segment in segments)
        given = {name: value for name, value in (params or {}).items() if value is not None}
        query = urlencode(given, errors="surrogateescape")
        return f"{self.prefix}/{path}" + (f"?{query}" if query else "")

    @pass_context
    def _token_field(self, context: Context) -> str:
        """The token of the page's own session; theirs is that of whom the thread served last."""
        token = self.sessions.token(context["request"].session)
        return f'<input type="hidden" name="{TOKEN}" value="{token}">'

    def asset(self, name: str) -> str:
        """The address of a file of ours: another one after each change, which browsers keep."""
        digest = hashlib.sha256(self._files[name]).hexdigest()[:12]
        return self.uri("static", name, params={"v": digest})

    # -- Theirs ----------------------------------------------------------------------------

    @property
    def dashboard(self) -> Any:
        return OverviewPages(self).overview

    @property
    def queue(self) -> Any:
        return self._queue

    @handler  # type: ignore[untyped-decorator]
    def _queue(self, request: PageRequest, *, name: str, current_tab: str = "standard") -> Response:
        return redirect(self.uri("queues", name, "jobs", params={"state": _TABS[current_tab]}))

    @property
    def job(self) -> Any:
        return self._job

    @handler  # type: ignore[untyped-decorator]
    def _job(
        self, request: PageRequest, *, name: str, current_tab: str, message_id: str
    ) -> Response:
        return redirect(self.uri("queues", name, "job", params={"id": message_id}))

    @property
    def delete_message(self) -> Any:
        return JobPages(self).delete

    @property
    def requeue_message(self) -> Any:
        return JobPages(self).retry

    # -- A request ---------------------------------------------------------------------------

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = PageRequest.from_environ(environ)
        request.address = self.proxies.client_of(environ)
        static = request.path.startswith("/static/")

        def start(status: str, headers: list[tuple[str, str]]) -> None:
            start_response(status, self.gate.dressed(headers, request, static=static))

        try:
            if static:
                return _sent(self._static(request), start)
            self.gate.admit(request)
            if request.user is None and request.path != "/sign-in":
                return _sent(self._stranger(request), start)
            return _encoded(self._dispatch(request, start))
        except Exception as error:
            return _sent(self._failure(request, error), start)

    def _dispatch(self, request: PageRequest, start: Any) -> Any:
        for pattern, method in self._dispatch_table:
            if match := pattern.match(request.path):
                return method(request, start, **match.groupdict())
        raise BadRequest("There is no such page.", HTTP_404)

    def _static(self, request: PageRequest) -> Response:
        name = request.path.removeprefix("/static/")
        if request.method not in ("GET", "HEAD"):
            return make_response((HTTP_405, "Expected a GET request."))
        if name not in self._files:
            return make_response((HTTP_404, "Not Found"))
        return Response(headers=[("Content-Type", _STATIC[name])], content=self._files[name])

    def _stranger(self, request: PageRequest) -> Response:
        if self.access.users is None:
            return make_response(("401 Unauthorized", "Nobody that the dashboard knows."))
        if request.method != "GET":
            raise BadRequest("Sign in first.", "401 Unauthorized")
        if request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            # By a link from elsewhere: the browser keeps a strict cookie to itself until a page
            # of ours asks. A new one now would end the session that there may be.
            request.session = Session("")
            return Response(content=self.templates.get_template("again.html").render())
        return redirect(self.uri("sign-in", params={"next": request.target}))

    def _failure(self, request: PageRequest, error: Exception) -> Response:
        match error:
            case BadRequest(status=status):
                told = str(error)
            case JobUnknown():
                status, told = HTTP_404, str(error)
            case BrokerConnectionError():
                status, told = "503 Service Unavailable", f"The server can't be asked now: {error}"
            case HeadraceError():
                status, told = "400 Bad Request", str(error)
            case _:
                self._logger.error("A page failed: %s", request.path, exc_info=error)
                status, told = "500 Internal Server Error", "Something is wrong here; see the log."
        page = self.templates.get_template("error.html").render(
            request=request, status=status, told=told
        )
        return Response(status=status, content=page)


def _file(name: str) -> bytes:
    if name == "base.css":
        return theme.their_style()
    return (resources.files("dashboard") / "static" / name).read_bytes()


def _sent(response: Response, start: Any) -> Iterable[bytes]:
    start(response.status, response.headers)
    return _encoded(response)


def _encoded(response: Response) -> Iterable[bytes]:
    # Names from Redis may be bytes that are no text; theirs would fail on them.
    if isinstance(response.content, str):
        response.content = response.content.encode("utf-8", "replace")
    parts: Iterable[bytes] = iter(response)
    return parts
