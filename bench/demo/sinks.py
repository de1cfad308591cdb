"""Where the demo's mails and push notifications end: an SMTP and an HTTP server in this process.

Both keep everything that arrives, in order, and refuse what they are told to refuse.
"""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from aiosmtpd.smtp import SMTP, Envelope, Session

HOST = "127.0.0.1"
START_S = 10.0


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail as it arrived: one per accepted transaction."""

    recipients: tuple[str, ...]
    subject: str
    message_id: str
    text: str
    html: str


@dataclass(frozen=True, slots=True)
class Push:
    """A request as it arrived and the status it was answered with."""

    path: str
    key: str
    body: Any
    status: int


class SmtpSink:
    """A mail server on a free port of this machine; a context manager.

    An address in `unknown` is refused for good, with 550.
    """

    def __init__(self, *, unknown: frozenset[str] = frozenset()) -> None:
        self._unknown = unknown
        self._mails: list[Mail] = []
        self._ready = threading.Event()
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="smtp-sink", daemon=True)
        self.port = 0

    @property
    def mails(self) -> list[Mail]:
        """What has been accepted so far."""
        return list(self._mails)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(START_S) or self.port == 0:
            raise RuntimeError("the SMTP sink did not start")
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            self._ready.set()  # also when it failed: whoever waits looks at the port

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        # aiosmtpd's own controller can't take a port that the system picks.
        server = await self._loop.create_server(
            lambda: SMTP(self, enable_SMTPUTF8=True, hostname="demo.invalid"), HOST, 0
        )
        self.port = int(server.sockets[0].getsockname()[1])
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def handle_RCPT(  # noqa: N802, the name is aiosmtpd's
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        options: list[str],
    ) -> str:
        """aiosmtpd's hook: accept or refuse one recipient."""
        if address in self._unknown:
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802, the name is aiosmtpd's
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        """aiosmtpd's hook: keep the mail, then accept it."""
        content = envelope.content
        data = content.encode() if isinstance(content, str) else content or b""
        self._mails.append(parse_mail(data, tuple(envelope.rcpt_tos)))
        return "250 OK"


def parse_mail(data: bytes, recipients: tuple[str, ...]) -> Mail:
    """A mail from its bytes; a part that is missing is an empty string."""
    message = email.message_from_bytes(data, policy=email.policy.default)
    return Mail(
        recipients=recipients,
        subject=str(message["Subject"]),
        message_id=str(message["Message-ID"]),
        text=_part(message, "plain"),
        html=_part(message, "html"),
    )


def _part(message: EmailMessage, kind: str) -> str:
    part = message.get_body(preferencelist=(kind,))
    # On the way every line end became CRLF.
    return "" if part is None else str(part.get_content()).replace("\r\n", "\n")


class HttpSink:
    """A push gateway on a free port of this machine; a context manager.

    `refusals` says how many requests are answered 503 first, by the body's title.
    """

    def __init__(self, *, refusals: Mapping[str, int] | None = None) -> None:
        self._left = Counter(refusals or {})
        self._pushes: list[Push] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer((HOST, 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="http-sink", daemon=True
        )

    @property
    def url(self) -> str:
        """What to post to."""
        return f"http://{HOST}:{self._server.server_port}/push"

    @property
    def pushes(self) -> list[Push]:
        """What has arrived so far, refused requests included."""
        with self._lock:
            return list(self._pushes)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(START_S)

    def receive(self, path: str, key: str, data: bytes) -> int:
        """Keep one request; the status to answer with."""
        try:
            body = json.loads(data)
        except ValueError:
            body = None
        title = body.get("title", "") if isinstance(body, dict) else ""
        with self._lock:
            status = 201 if isinstance(body, dict) else 400
            if status == 201 and self._left[title] > 0:
                self._left[title] -= 1
                status = 503
            self._pushes.append(Push(path, key, body, status))
        return status


def _handler(sink: HttpSink) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # the workers keep their connections

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            status = sink.receive(self.path, self.headers.get("Idempotency-Key", ""), data)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Nothing: the report is the log."""

    return Handler
