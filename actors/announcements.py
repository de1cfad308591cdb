"""notification-queue: tell a user something by the channel of the user's own choice."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from actors import current
from actors.digest import Digest, schedule_digest
from actors.job import job
from actors.notifications import deliver
from actors.payloads import Notification, OneLine, UserId
from actors.preferences import Channel, Preference, Preferences
from middleware.payload import Payload

_log = logging.getLogger(__name__)


class Announcement(Payload, frozen=True, kw_only=True):
    """Something that happened, for one user or for many; no line breaks in the title."""

    title: Annotated[OneLine, Meta(pattern=r"^[^\x00-\x1f\x7f\x85\u2028\u2029]*$")]
    text: str
    data: dict[str, Any] = msgspec.field(default_factory=dict)


class FanOutReport(Payload, frozen=True, kw_only=True):
    """How many users were told by each channel; ``failed`` could not be told."""

    told: dict[str, int]
    failed: int


@job(queue_name="notification-queue")
def announce(user_id: UserId, announcement: Announcement) -> Channel:
    """Tell the user by the preferred channel, at least once; returns which one it was."""
    broker, message_id = current.streams_broker(), current.message_id()
    preference = Preferences(broker.client, broker.namespace).get(user_id)
    if preference.channel == "digest":
        digest = Digest(broker.client, broker.namespace, user_id)
        oldest, waited_ms = digest.add(message_id, announcement.title, announcement.text)
        schedule_digest(user_id, oldest, waited_ms=waited_ms)
    elif preference.channel != "none":
        deliver(_notification(user_id, preference, announcement), message_id)
    return preference.channel


@job(queue_name="notification-queue")
def report_fan_out(channels: list[Channel | None]) -> FanOutReport:
    """Count what became of a fan-out; None is a user who could not be told."""
    told = Counter(str(channel) for channel in channels if channel is not None)
    report = FanOutReport(told=dict(told), failed=channels.count(None))
    _log.info("fan-out: told %s, failed %d", dict(told), report.failed)
    return report


def _notification(user_id: str, preference: Preference, announcement: Announcement) -> Notification:
    title, text, data = announcement.title, announcement.text, announcement.data
    content: dict[str, Any]
    if preference.channel == "email":
        content = {"to": preference.email, "subject": title, "text": text}
        return Notification(type="email", user_id=user_id, payload=content)
    if preference.channel == "push":
        content = {"title": title, "body": text, "data": data}
        return Notification(type="push", user_id=user_id, payload=content)
    content = {"title": title, "text": text, "data": data}
    return Notification(type="in-app", user_id=user_id, payload=content)
