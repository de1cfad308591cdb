"""Users' inboxes: one capped stream each, which the application reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import redis

from broker.errors import translated


@dataclass(frozen=True, slots=True)
class InboxItem:
    """One notification. ``position`` orders it and is where the next read goes on."""

    position: str
    message_id: str
    content: dict[str, Any]


def inbox_key(namespace: str, user_id: str) -> str:
    """The stream of a user's notifications; braces literal, as in all of Headrace's keys."""
    return f"{{{namespace}}}:inbox:{user_id}"


class Inbox:
    """One user's inbox.

    A redelivered job may append its notification a second time; both entries carry the
    id of the message, by which :meth:`read` drops the repeat, and so should other readers.
    """

    def __init__(self, client: redis.Redis, namespace: str, user_id: str) -> None:
        self._client = client
        self._key = inbox_key(namespace, user_id)

    def append(self, message_id: str, content: dict[str, Any], *, max_length: int) -> None:
        """Add a notification and drop the oldest beyond about ``max_length``.

        Raises Dramatiq's connection errors.
        """
        fields: dict[Any, Any] = {"id": message_id, "content": msgspec.json.encode(content)}
        with translated():
            self._client.xadd(self._key, fields, maxlen=max_length, approximate=True)

    def forget(self) -> None:
        """Drop all of it. Raises Dramatiq's connection errors."""
        with translated():
            self._client.delete(self._key)

    def read(self, *, after: str = "-", limit: int = 100) -> list[InboxItem]:
        """The next notifications, oldest first, each once; ``after`` is the last position seen.

        Raises Dramatiq's connection errors.
        """
        start = after if after == "-" else f"({after}"
        with translated():
            entries: Any = self._client.xrange(self._key, min=start, max="+", count=limit)
        items: dict[str, InboxItem] = {}
        for position, fields in entries:
            item = _item(position, fields)
            items.setdefault(item.message_id, item)
        return list(items.values())


def _item(position: bytes | str, fields: dict[bytes | str, bytes | str]) -> InboxItem:
    named = {_text(name): value for name, value in fields.items()}
    return InboxItem(
        position=_text(position),
        message_id=_text(named["id"]),
        content=msgspec.json.decode(named["content"]),
    )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
