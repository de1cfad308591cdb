from __future__ import annotations

import datetime
import smtplib
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from actors.errors import PermanentJobError
from actors.mail import send_mail
from actors.payloads import EmailContent
from actors.settings import SmtpSettings
from broker.configuration import Secret
from tests.actors.servers import MailServer

CONTENT = EmailContent(
    to="ada@example.org", subject="Grüße 👋", text="Hello <Ada>\nBye", html="<p>Hello</p>"
)


def local(server: MailServer) -> SmtpSettings:
    return SmtpSettings(
        host="127.0.0.1", port=server.port, sender="app@chatgenius.example", timeout_s=5
    )


def test_a_mail_arrives_as_text_and_html(mail_server: MailServer) -> None:
    send_mail(local(mail_server), CONTENT, "id-1")
    mail = mail_server.next_mail()
    assert mail["To"] == "ada@example.org"
    assert mail["From"] == "app@chatgenius.example"
    assert mail["Subject"] == "Grüße 👋"
    assert mail.get_content_type() == "multipart/alternative"
    text, html = mail.iter_parts()
    assert text.get_content_type() == "text/plain"
    assert text.get_content().splitlines() == ["Hello <Ada>", "Bye"]
    assert html.get_content_type() == "text/html"
    assert html.get_content().strip() == "<p>Hello</p>"


def test_a_mail_without_html_gets_its_text_escaped(mail_server: MailServer) -> None:
    plain = EmailContent(to="ada@example.org", subject="s", text="a < b\n& c")
    send_mail(local(mail_server), plain, "id-1")
    _, html = mail_server.next_mail().iter_parts()
    assert "a &lt; b<br>" in html.get_content()


def test_a_redelivered_mail_bears_the_same_message_id(mail_server: MailServer) -> None:
    for _ in range(2):
        send_mail(local(mail_server), CONTENT, "id-1")
    ids = [mail_server.next_mail()["Message-ID"] for _ in range(2)]
    assert ids == ["<id-1@chatgenius.example>"] * 2


def test_a_recipient_refused_for_good_is_permanent(mail_server: MailServer) -> None:
    mail_server.handler.answers = ["550 no such user"]
    with pytest.raises(PermanentJobError, match="550 no such user"):
        send_mail(local(mail_server), CONTENT, "id-1")


def test_a_recipient_refused_for_now_may_be_retried(mail_server: MailServer) -> None:
    mail_server.handler.answers = ["451 greylisted"]
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        send_mail(local(mail_server), CONTENT, "id-1")
    send_mail(local(mail_server), CONTENT, "id-1")
    assert mail_server.next_mail()["To"] == "ada@example.org"


def test_a_server_that_is_not_there_may_be_retried() -> None:
    with MailServer() as server:
        gone = local(server)
    with pytest.raises(OSError):
        send_mail(gone, CONTENT, "id-1")


def test_starttls_with_a_login_delivers(tmp_path: Path) -> None:
    context, ca_file = tls(tmp_path)
    with MailServer(context, login=("app", "hunter2")) as server:
        settings = SmtpSettings(
            host="localhost",
            port=server.port,
            tls="starttls",
            ca_file=str(ca_file),
            username="app",
            password=Secret("hunter2"),
            timeout_s=5,
        )
        send_mail(settings, CONTENT, "id-1")
        assert server.next_mail()["To"] == "ada@example.org"


def test_an_untrusted_certificate_sends_nothing(tmp_path: Path) -> None:
    context, _ = tls(tmp_path)
    with MailServer(context) as server:
        settings = SmtpSettings(host="localhost", port=server.port, tls="starttls", timeout_s=5)
        with pytest.raises(ssl.SSLCertVerificationError):
            send_mail(settings, CONTENT, "id-1")
        assert server.empty


def test_a_server_without_starttls_sends_nothing(mail_server: MailServer) -> None:
    settings = SmtpSettings(host="127.0.0.1", port=mail_server.port, tls="starttls", timeout_s=5)
    with pytest.raises(PermanentJobError, match="STARTTLS"):
        send_mail(settings, CONTENT, "id-1")
    assert mail_server.empty


def tls(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A context for a server named localhost, and the file of the authority that vouches for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "certificate.pem", folder / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_file, key_file)
    return context, certificate_file
