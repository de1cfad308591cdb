"""A mail server and a push gateway that keep what they got."""

from __future__ import annotations

import json
import queue
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.ports import free_port
from tests.waiting import PATIENCE_S

OK = "250 OK"


@dataclass
class MailHandler:
    """Answers like a mail server: the next of `answers` to RCPT, otherwise it accepts."""

    received: queue.SimpleQueue[EmailMessage] = field(default_factory=queue.SimpleQueue)
    answers: list[str] = field(default_factory=list)

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        answer = self.answers.pop(0) if self.answers else OK
        if answer == OK:
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        assert isinstance(envelope.content, bytes)
        mail = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self.received.put(mail)
        return OK


class MailServer:
    """A real SMTP server on a free port; with a TLS context it offers STARTTLS and a login."""

    def __init__(self, tls: ssl.SSLContext | None = None, login: tuple[str, str] | None = None):
        self.handler = MailHandler()

        def authenticate(
            server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
        ) -> AuthResult:
            assert isinstance(data, LoginPassword)
            given = (data.login.decode(), data.password.decode())
            return AuthResult(success=given == login)

        #: Where it listens: aiosmtpd connects to the port it was told, so this is a real one.
        self.port = free_port()
        self._controller = Controller(
            self.handler,
            hostname="127.0.0.1",
            port=self.port,
            tls_context=tls,
            authenticator=authenticate,
            auth_require_tls=True,
            auth_required=login is not None,
        )

    def __enter__(self) -> MailServer:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()

    def next_mail(self) -> EmailMessage:
        """The next mail received."""
        return self.handler.received.get(timeout=PATIENCE_S)

    @property
    def empty(self) -> bool:
        """Whether all mails received were looked at."""
        return self.handler.received.empty()


@dataclass(frozen=True)
class Answer:
    """What the gateway says to one request."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Posted:
    """One request the gateway got."""

    headers: Mapping[str, str]
    body: Any


class PushGateway:
    """A real HTTP server: the next of `answers` to each POST, otherwise 202."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.posted: queue.SimpleQueue[Posted] = queue.SimpleQueue()
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                gateway.posted.put(Posted(dict(self.headers), json.loads(body)))
                answer = gateway.answers.pop(0) if gateway.answers else Answer(202)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> PushGateway:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE_S)

    @property
    def url(self) -> str:
        """Where to post to."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/push"

    def next_post(self) -> Posted:
        """The next request received."""
        return self.posted.get(timeout=PATIENCE_S)
