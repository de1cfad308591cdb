"""The ways a notice goes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import formatdate
from typing import Protocol

import httpx
from dramatiq import Broker

from broker.notification_settings import WebhookNotices
from middleware.notice import Notice


class Channel(Protocol):
    """Takes a notice to somebody; raises whatever keeps it from that, within a minute."""

    #: For the log.
    name: str

    def send(self, broker: Broker, notice: Notice) -> None: ...


class EmailChannel:
    """One mail to all; ``deliver`` hands it to a mail server."""

    name = "email"

    def __init__(
        self, deliver: Callable[[EmailMessage], None], *, sender: str, to: Sequence[str]
    ) -> None:
        self._deliver = deliver
        self._sender = Address(addr_spec=sender)
        self._to = [Address(addr_spec=address) for address in to]

    def send(self, broker: Broker, notice: Notice) -> None:
        mail = EmailMessage()
        mail["From"] = self._sender
        mail["To"] = self._to
        mail["Subject"] = notice.subject
        mail["Date"] = formatdate(localtime=False)
        mail["Message-ID"] = f"<{notice.id}@{self._sender.domain}>"
        mail["Auto-Submitted"] = "auto-generated"  # no out-of-office answers (RFC 3834)
        mail.set_content(notice.text)
        self._deliver(mail)


class WebhookChannel:
    """One POST of the notice as JSON; what many chats show is its ``text``."""

    name = "webhook"

    def __init__(self, settings: WebhookNotices) -> None:
        self._settings = settings

    def send(self, broker: Broker, notice: Notice) -> None:
        headers = {"Idempotency-Key": notice.id}
        if self._settings.token is not None:
            headers["Authorization"] = f"Bearer {self._settings.token.reveal()}"
        response = httpx.post(
            self._settings.url.reveal(),
            json=notice.asdict(),
            headers=headers,
            timeout=self._settings.timeout_s,
        )
        response.raise_for_status()


class ActorChannel:
    """A message to an actor of the application, with the notice as its one argument."""

    name = "actor"

    def __init__(self, actor: str) -> None:
        self._actor = actor

    def send(self, broker: Broker, notice: Notice) -> None:
        broker.get_actor(self._actor).send(notice.asdict())
