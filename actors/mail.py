"""Notifications by mail: SMTP."""

from __future__ import annotations

import html
import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import formatdate

from actors.errors import PermanentJobError
from actors.payloads import EmailContent
from actors.settings import SmtpSettings

#: Replies that a repeat can't change: mailbox, size, syntax, policy. A refused login (53x)
#: is not among them, since a new password mends it.
_PERMANENT_CODES = frozenset({500, 501, 502, 503, 504, 550, 551, 552, 553, 554, 555, 556})


def compose(settings: SmtpSettings, content: EmailContent, message_id: str) -> EmailMessage:
    """The mail as text and HTML. Its Message-ID comes from the message's id, so that mail
    servers and readers recognise the copy that a redelivery sends."""
    sender = Address(addr_spec=settings.sender)
    mail = EmailMessage()
    mail["From"] = sender
    mail["To"] = Address(addr_spec=content.to)
    mail["Subject"] = content.subject
    mail["Date"] = formatdate(localtime=False)
    mail["Message-ID"] = f"<{message_id}@{sender.domain}>"
    mail.set_content(content.text)
    page = _page(content.text) if content.html is None else content.html
    mail.add_alternative(page, subtype="html")
    return mail


def send_mail(settings: SmtpSettings, content: EmailContent, message_id: str) -> None:
    """Hand the mail to the server; returns once it has accepted it.

    Raises:
      PermanentJobError: the server refused this mail for good.
      OSError, SMTPException: anything that may pass by itself.
    """
    mail = compose(settings, content, message_id)
    try:
        deliver(settings, mail)
    except smtplib.SMTPRecipientsRefused as error:
        code, text = next(iter(error.recipients.values()))
        if code in _PERMANENT_CODES:
            raise PermanentJobError(f"recipient refused: {code} {_shown(text)}") from error
        raise
    except smtplib.SMTPResponseException as error:
        if error.smtp_code in _PERMANENT_CODES:
            raise PermanentJobError(
                f"mail refused: {error.smtp_code} {_shown(error.smtp_error)}"
            ) from error
        raise
    except smtplib.SMTPNotSupportedError as error:
        # A login, STARTTLS or an international address that this server doesn't know.
        raise PermanentJobError(f"the mail server can't do it: {error}") from error


def deliver(settings: SmtpSettings, mail: EmailMessage) -> None:
    """Hand a mail to the server; returns once it has accepted it for every recipient or some.

    Raises:
      OSError, SMTPException: it has not.
    """
    with _connected(settings) as server:
        server.send_message(mail)


@contextmanager
def _connected(settings: SmtpSettings) -> Iterator[smtplib.SMTP]:
    with _connection(settings) as server:
        if settings.tls == "starttls":
            server.starttls(context=_tls(settings))
        if settings.username is not None and settings.password is not None:
            server.login(settings.username, settings.password.reveal())
        yield server


def _connection(settings: SmtpSettings) -> smtplib.SMTP:
    if settings.tls == "implicit":
        return smtplib.SMTP_SSL(
            settings.host, settings.port, timeout=settings.timeout_s, context=_tls(settings)
        )
    return smtplib.SMTP(settings.host, settings.port, timeout=settings.timeout_s)


def _tls(settings: SmtpSettings) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=settings.ca_file)


def _page(text: str) -> str:
    body = html.escape(text).replace("\n", "<br>\n")
    return f"<!doctype html>\n<html><body><p>{body}</p></body></html>\n"


def _shown(text: bytes | str) -> str:
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else text
