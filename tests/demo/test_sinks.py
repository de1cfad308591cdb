"""The sinks keep what arrives and refuse what they are told to."""

from __future__ import annotations

import smtplib
from email.message import EmailMessage

import httpx
import pytest

from bench.demo.sinks import HttpSink, Push, SmtpSink


def mail(to: str) -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "a@example.org", to, "Grüße"
    made["Message-ID"] = "<1@example.org>"
    made.set_content("Text, 山田\n")
    made.add_alternative("<p>HTML</p>\n", subtype="html")
    return made


def test_a_mail_arrives_with_both_parts() -> None:
    with SmtpSink() as sink, smtplib.SMTP("127.0.0.1", sink.port, timeout=10) as client:
        client.send_message(mail("b@example.org"))
        (found,) = sink.mails
    assert found.recipients == ("b@example.org",)
    assert found.subject == "Grüße"
    assert found.message_id == "<1@example.org>"
    assert found.text == "Text, 山田\n"
    assert found.html == "<p>HTML</p>\n"


def test_an_unknown_address_is_refused_for_good() -> None:
    unknown = frozenset({"nobody@example.org"})
    with SmtpSink(unknown=unknown) as sink, smtplib.SMTP("127.0.0.1", sink.port) as client:
        with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
            client.send_message(mail("nobody@example.org"))
        assert sink.mails == []
    assert refused.value.recipients["nobody@example.org"][0] == 550


def test_a_push_is_refused_as_often_as_planned_and_then_taken() -> None:
    with HttpSink(refusals={"flaky": 2}) as sink, httpx.Client(trust_env=False) as client:
        statuses = [
            client.post(
                sink.url, json={"title": "flaky"}, headers={"Idempotency-Key": "k"}
            ).status_code
            for _ in range(3)
        ]
        assert statuses == [503, 503, 201]
        assert sink.pushes[-1] == Push("/push", "k", {"title": "flaky"}, 201)


def test_a_push_that_is_no_json_is_a_bad_request() -> None:
    with HttpSink() as sink, httpx.Client(trust_env=False) as client:
        assert client.post(sink.url, content=b"{").status_code == 400
