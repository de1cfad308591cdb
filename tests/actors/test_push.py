from __future__ import annotations

from datetime import UTC, datetime

import httpx
import pytest
from dramatiq.errors import Retry

from actors.errors import PermanentJobError
from actors.payloads import PushContent
from actors.push import retry_after_ms, send_push
from actors.settings import PushSettings
from broker.configuration import Secret
from tests.actors.servers import Answer, PushGateway

CONTENT = PushContent(title="Hi", body="New message 👋", data={"room": 7})


def test_a_push_carries_content_token_and_idempotency_key(gateway: PushGateway) -> None:
    settings = PushSettings(url=gateway.url, token=Secret("t0k"))
    send_push(settings, "u1", CONTENT, "id-1")
    posted = gateway.next_post()
    assert posted.body == {
        "userId": "u1",
        "title": "Hi",
        "body": "New message 👋",
        "data": {"room": 7},
    }
    assert posted.headers["Idempotency-Key"] == "id-1"
    assert posted.headers["Authorization"] == "Bearer t0k"


@pytest.mark.parametrize("status", [301, 400, 401, 404, 410, 422])
def test_a_refusal_is_permanent(gateway: PushGateway, status: int) -> None:
    gateway.answers = [Answer(status, {"Location": gateway.url})]
    with pytest.raises(PermanentJobError, match=str(status)):
        send_push(PushSettings(url=gateway.url), "u1", CONTENT, "id-1")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_passing_trouble_may_be_retried(gateway: PushGateway, status: int) -> None:
    gateway.answers = [Answer(status)]
    with pytest.raises(httpx.HTTPStatusError):
        send_push(PushSettings(url=gateway.url), "u1", CONTENT, "id-1")


@pytest.mark.parametrize("status", [429, 503])
def test_the_wait_that_the_gateway_asks_for_is_honoured(gateway: PushGateway, status: int) -> None:
    gateway.answers = [Answer(status, {"Retry-After": "17"})]
    with pytest.raises(Retry) as caught:
        send_push(PushSettings(url=gateway.url), "u1", CONTENT, "id-1")
    assert caught.value.delay == 17_000


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("soon", None),
        ("0", 1_000),
        ("2", 2_000),
        ("99999999999", 86_400_000),
        ("Wed, 01 Jan 2025 00:00:30 GMT", 30_000),
        ("Wed, 01 Jan 2020 00:00:00 GMT", 1_000),
    ],
)
def test_retry_after_is_seconds_or_a_date_within_limits(
    header: str | None, expected: int | None
) -> None:
    assert retry_after_ms(header, datetime(2025, 1, 1, tzinfo=UTC)) == expected


def test_no_gateway_is_permanent() -> None:
    with pytest.raises(PermanentJobError, match="PUSH_GATEWAY_URL"):
        send_push(PushSettings(), "u1", CONTENT, "id-1")


def test_a_gateway_that_is_not_there_may_be_retried() -> None:
    with PushGateway() as gateway:
        url = gateway.url
    with pytest.raises(httpx.TransportError):
        send_push(PushSettings(url=url), "u1", CONTENT, "id-1")
