"""Requests as the beginnings of chains, by the reference implementations of both interfaces."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import httpx
import pytest

from middleware.correlation import current_correlation_id, is_valid
from middleware.web import AsgiCorrelation, Event, Receive, Scope, Send, WsgiCorrelation

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PLAIN = ("Content-Type", "text/plain")


def show(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answers with the id at the call, while the body is made, and at its end."""
    during = [current_correlation_id()]
    start_response("200 OK", [PLAIN])

    def body() -> Iterator[bytes]:
        try:
            yield str(during[0]).encode() + b" "
            yield str(current_correlation_id()).encode()
        finally:
            environ["at.the.end"].append(current_correlation_id())

    return body()


def get(headers: dict[str, str], application: Any = show) -> tuple[httpx.Headers, str, list[Any]]:
    at_the_end: list[Any] = []
    environ: dict[str, Any] = {"at.the.end": at_the_end, "QUERY_STRING": ""}
    setup_testing_defaults(environ)
    for name, value in headers.items():
        environ[f"HTTP_{name.upper().replace('-', '_')}"] = value
    answered: list[tuple[str, str]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        answered.extend(headers)
        return lambda data: None

    body = validator(WsgiCorrelation(validator(application)))(environ, start_response)
    try:
        text = b"".join(body).decode()
    finally:
        body.close()  # type: ignore[attr-defined]
    assert current_correlation_id() is None
    return httpx.Headers(answered), text, at_the_end


@pytest.mark.parametrize("header", ["X-Correlation-ID", "x-request-id"])
def test_wsgi_takes_the_id_from_a_header_and_answers_with_it(header: str) -> None:
    headers, text, at_the_end = get({header: "request-1"})
    assert headers["X-Correlation-ID"] == "request-1"
    assert (text, at_the_end) == ("request-1 request-1", ["request-1"])


def test_wsgi_makes_an_id_when_there_is_none_and_when_it_is_bad() -> None:
    ids = {get(sent)[0]["X-Correlation-ID"] for sent in ({}, {"X-Request-ID": "x" * 200})}
    assert len(ids) == 2
    assert all(map(is_valid, ids))
    headers, _, _ = get({"X-Correlation-ID": "a b", "X-Request-ID": "second"})
    assert headers["X-Correlation-ID"] == "second"


def test_wsgi_leaves_the_applications_own_answer() -> None:
    def own(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [PLAIN, ("x-correlation-id", "mine")])
        return [b""]

    headers, _, _ = get({"X-Request-ID": "theirs"}, own)
    assert headers.get_list("X-Correlation-ID") == ["mine"]


async def ask(headers: dict[str, str], application: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app=AsgiCorrelation(application))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get("/", headers=headers)


async def show_async(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(0)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(current_correlation_id()).encode()})


@pytest.mark.parametrize("header", ["X-Correlation-ID", "x-request-id"])
def test_asgi_takes_the_id_from_a_header_and_answers_with_it(header: str) -> None:
    response = asyncio.run(ask({header: "request-1"}, show_async))
    assert response.headers["X-Correlation-ID"] == response.text == "request-1"


def test_asgi_makes_an_id_when_there_is_none_and_when_it_is_bad() -> None:
    for sent in ({}, {"X-Correlation-ID": "a b"}):
        response = asyncio.run(ask(sent, show_async))
        assert is_valid(response.headers["X-Correlation-ID"])
        assert response.headers["X-Correlation-ID"] == response.text


def test_requests_at_once_keep_their_ids_apart() -> None:
    async def both() -> list[httpx.Response]:
        barrier = asyncio.Barrier(2)

        async def meet(scope: Scope, receive: Receive, send: Send) -> None:
            await barrier.wait()
            await show_async(scope, receive, send)

        return await asyncio.gather(
            *(ask({"X-Request-ID": id}, meet) for id in ("a", "b")),
        )

    assert [response.text for response in asyncio.run(both())] == ["a", "b"]


def test_a_web_socket_is_answered_too_and_the_life_of_the_application_is_no_request() -> None:
    seen: list[Any] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(current_correlation_id())
        await send({"type": "websocket.accept"})

    async def send(event: Event) -> None:
        seen.append(event)

    async def receive() -> Event:
        return {}

    headers = [(b"X-Request-ID", b"socket-1")]
    asyncio.run(
        AsgiCorrelation(application)({"type": "websocket", "headers": headers}, receive, send)
    )
    asyncio.run(AsgiCorrelation(application)({"type": "lifespan"}, receive, send))
    accepted = {"type": "websocket.accept", "headers": [(b"x-correlation-id", b"socket-1")]}
    assert seen == ["socket-1", accepted, None, {"type": "websocket.accept"}]
