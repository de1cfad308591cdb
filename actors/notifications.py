"""notification-queue: tell a user something."""

from __future__ import annotations

from actors import current
from actors.app import application
from actors.inbox import Inbox
from actors.job import job
from actors.mail import send_mail
from actors.payloads import EmailContent, Notification, PushContent
from actors.push import send_push


@job(queue_name="notification-queue")
def send_notification(notification: Notification) -> None:
    """Deliver it, at least once; every way marks it with the message's id, so a repeat shows."""
    deliver(notification, current.message_id())


def deliver(notification: Notification, message_id: str) -> None:
    """Hand a notification to the mail server, the push gateway or the user's inbox."""
    content = notification.content()
    if isinstance(content, EmailContent):
        send_mail(application.smtp, content, message_id)
    elif isinstance(content, PushContent):
        send_push(application.push, notification.user_id, content, message_id)
    else:
        broker = current.streams_broker()
        inbox = Inbox(broker.client, broker.namespace, notification.user_id)
        inbox.append(message_id, content, max_length=application.inbox.length)
