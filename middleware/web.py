"""A web application's requests as the beginnings of chains: the id comes in and goes out by header.

The id is a label and proves nothing: whoever can reach the application can choose it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from middleware.correlation import context_in_chain, correlation, is_valid, new_correlation_id

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

#: Answered with, and looked for first.
HEADER: Final = "X-Correlation-ID"
#: Where the id is looked for, in this order.
HEADERS: Final = (HEADER, "X-Request-ID")

Scope: TypeAlias = MutableMapping[str, Any]
Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]
AsgiApplication: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_ENVIRON_KEYS = tuple(f"HTTP_{name.upper().replace('-', '_')}" for name in HEADERS)
_ASGI_HEADERS = tuple(name.lower().encode() for name in HEADERS)
_ANSWERS = frozenset({"http.response.start", "websocket.accept"})


class WsgiCorrelation:
    """Wraps a WSGI application: ``application = WsgiCorrelation(application)``."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        id = _chosen(environ.get(key) for key in _ENVIRON_KEYS)

        def answer(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            return start_response(status, _with_header(headers, id), *rest)

        # A context of the request's own: the body is made after this call has returned.
        context = context_in_chain(id)
        return _Body(context.run(self._application, environ, answer), context)


class _Body:
    """The response's body, made in the request's context however late the server asks for it."""

    def __init__(self, parts: Iterable[bytes], context: Context) -> None:
        self._parts = parts
        self._context = context

    def __iter__(self) -> Iterator[bytes]:
        parts = self._context.run(iter, self._parts)
        while True:
            try:
                part = self._context.run(next, parts)
            except StopIteration:
                return
            yield part

    def close(self) -> None:
        close = getattr(self._parts, "close", None)
        if close is not None:
            self._context.run(close)


class AsgiCorrelation:
    """Wraps an ASGI application, its requests and web sockets."""

    def __init__(self, application: AsgiApplication) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._application(scope, receive, send)
            return
        given = {name.lower(): value for name, value in scope["headers"]}
        id = _chosen(_text(given.get(name)) for name in _ASGI_HEADERS)

        async def answer(event: Event) -> None:
            if event["type"] in _ANSWERS:
                event = {**event, "headers": _with_raw_header(event.get("headers", ()), id)}
            await send(event)

        with correlation(id):
            await self._application(scope, receive, answer)


def _chosen(given: Iterable[str | None]) -> str:
    """The first acceptable id of those given, or a new one."""
    return next((id for id in given if id is not None and is_valid(id)), new_correlation_id())


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _with_header(headers: list[tuple[str, str]], id: str) -> list[tuple[str, str]]:
    if any(name.lower() == HEADER.lower() for name, _ in headers):
        return headers  # the application has its own way to answer
    return [*headers, (HEADER, id)]


def _with_raw_header(headers: Iterable[tuple[bytes, bytes]], id: str) -> list[tuple[bytes, bytes]]:
    headers, name = list(headers), _ASGI_HEADERS[0]
    if any(each.lower() == name for each, _ in headers):
        return headers
    return [*headers, (name, id.encode())]
