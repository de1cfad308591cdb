"""notification-queue: what is collected for a while and goes out as one mail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec
import redis

from actors import current
from actors.app import application
from actors.job import job
from actors.mail import send_mail
from actors.payloads import EmailContent, UserId
from actors.preferences import Preferences
from broker.errors import translated

_READ: Final = 1_000


@dataclass(frozen=True, slots=True)
class DigestItem:
    """One thing that a user is to be told; ``position`` orders it."""

    position: str
    message_id: str
    title: str
    text: str


class Digest:
    """What one user's next mail will hold. Every method raises Dramatiq's connection errors.

    A redelivered job may add its item a second time; :meth:`read` drops the repeat.
    """

    def __init__(self, client: redis.Redis, namespace: str, user_id: str) -> None:
        self._client: Any = client
        self._key = f"{{{namespace}}}:digest:{user_id}"

    def add(self, message_id: str, title: str, text: str) -> tuple[DigestItem, int]:
        """Add an item; returns the oldest that waits, and for how long it has, in ms."""
        content = msgspec.json.encode({"title": title, "text": text})
        with translated():
            added = self._client.xadd(self._key, {"id": message_id, "content": content})
            oldest = self._client.xrange(self._key, count=1)
        item = _item(*oldest[0]) if oldest else _item(added, {b"id": b"", b"content": content})
        return item, _milliseconds(added.decode()) - _milliseconds(item.position)

    def read(self) -> list[DigestItem]:
        """The oldest thousand that wait, each once."""
        with translated():
            entries = self._client.xrange(self._key, count=_READ)
        items: dict[str, DigestItem] = {}
        for position, fields in entries:
            item = _item(position, fields)
            items[item.message_id] = item
        return list(items.values())

    def drop(self, items: list[DigestItem]) -> None:
        """Forget what was sent, and all that was added before it."""
        with translated():
            for item in items[-1:]:
                milliseconds, _, sequence = item.position.partition("-")
                following = f"{milliseconds}-{int(sequence) + 1}"
                self._client.xtrim(self._key, minid=following, approximate=False)

    def forget(self) -> None:
        """Drop all of it."""
        with translated():
            self._client.delete(self._key)


@job(queue_name="notification-queue")
def send_digest(user_id: UserId) -> None:
    """Send all that waits for the user as one mail, and drop it.

    A worker that dies in between sends it again, under the same Message-ID.
    """
    broker = current.streams_broker()
    digest = Digest(broker.client, broker.namespace, user_id)
    items = digest.read()
    address = Preferences(broker.client, broker.namespace).get(user_id).email
    if items and address is not None:
        send_mail(application.smtp, _mail(address, items), current.message_id())
    digest.drop(items)
    left = digest.read()
    if left:  # added meanwhile, when this message still stood for them
        schedule_digest(user_id, left[0], waited_ms=0)


def schedule_digest(user_id: str, oldest: DigestItem, *, waited_ms: int) -> None:
    """Have a digest sent once nothing was added for a while, and not later than its longest wait.

    The oldest item names it, so that what comes while a digest is sent begins the next one.
    """
    settings = application.digest
    send_digest.send_with_options(
        args=(user_id,),
        delay=settings.pause_ms,
        deduplication_key=f"digest:{user_id}:{oldest.position}",
        # Each new item begins the pause anew, until the oldest has waited for long enough.
        deduplication_replace=waited_ms + settings.pause_ms < settings.longest_wait_ms,
    )


def _mail(address: str, items: list[DigestItem]) -> EmailContent:
    titles = f"{len(items)} notifications" if len(items) > 1 else items[0].title
    text = "\n\n".join(f"{item.title}\n{item.text}" for item in items)
    return EmailContent(to=address, subject=titles, text=f"{text}\n")


def _milliseconds(position: str) -> int:
    """When an item was added, unix ms by the server's clock."""
    return int(position.partition("-")[0])


def _item(position: bytes, fields: dict[bytes, bytes]) -> DigestItem:
    content = msgspec.json.decode(fields[b"content"])
    return DigestItem(position.decode(), fields[b"id"].decode(), content["title"], content["text"])
