"""Notifications by push: one POST to the configured gateway."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final

import httpx
from dramatiq.errors import Retry

from actors.errors import PermanentJobError
from actors.payloads import PushContent
from actors.settings import PushSettings

#: The shortest and longest wait that a Retry-After may ask for, in ms.
LEAST_RETRY_AFTER_MS: Final = 1_000
MOST_RETRY_AFTER_MS: Final = 86_400_000

# 408 and 425 are the server's way of saying "again, please".
_TEMPORARY: Final = frozenset({408, 425, 429})


def send_push(settings: PushSettings, user_id: str, content: PushContent, message_id: str) -> None:
    """Post the notification; the gateway drops a repeat by its Idempotency-Key, the message's id.

    Raises:
      PermanentJobError: there is no gateway, or it refused the request (3xx, 4xx).
      Retry: the gateway says when to come again.
      httpx.HTTPError: anything that may pass by itself (5xx, time-out, no connection).
    """
    if settings.url is None:
        raise PermanentJobError("no push gateway is configured (PUSH_GATEWAY_URL)")
    headers = {"Idempotency-Key": message_id}
    if settings.token is not None:
        headers["Authorization"] = f"Bearer {settings.token.reveal()}"
    body = {
        "userId": user_id,
        "title": content.title,
        "body": content.body,
        "data": content.data,
    }
    response = _client(settings.timeout_s).post(settings.url, json=body, headers=headers)
    _judge(response)


def _judge(response: httpx.Response) -> None:
    status = response.status_code
    if response.is_success:
        return
    if status in _TEMPORARY or status >= 500:
        delay_ms = retry_after_ms(response.headers.get("Retry-After"))
        if delay_ms is not None:
            raise Retry(f"push gateway: {status}, asks for {delay_ms} ms", delay=delay_ms)
        raise httpx.HTTPStatusError(
            f"push gateway: {status}", request=response.request, response=response
        )
    raise PermanentJobError(f"push gateway refused: {status} {response.reason_phrase}")


def retry_after_ms(header: str | None, now: datetime | None = None) -> int | None:
    """The wait that a Retry-After asks for (RFC 9110, 10.2.3): seconds or a date.

    None without a header or with one that is neither; otherwise within the limits above.
    """
    if header is None:
        return None
    if header.isascii() and header.isdigit():
        asked = int(header) * 1_000
    else:
        try:
            at = parsedate_to_datetime(header)
        except ValueError:
            return None
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        asked = int((at - (now or datetime.now(UTC))).total_seconds() * 1_000)
    return min(max(asked, LEAST_RETRY_AFTER_MS), MOST_RETRY_AFTER_MS)


@lru_cache(maxsize=1)
def _client(timeout_s: float) -> httpx.Client:
    """The process's connections to the gateway; made at first use, so after the fork."""
    return httpx.Client(timeout=timeout_s, follow_redirects=False)
