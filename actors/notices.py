"""The ways by which the application's operators are told of failures."""

from __future__ import annotations

from functools import partial

from actors.mail import deliver
from actors.settings import SmtpSettings
from broker.notification_settings import NotificationSettings
from middleware.notice_channels import ActorChannel, Channel, EmailChannel, WebhookChannel


def notice_channels(settings: NotificationSettings, smtp: SmtpSettings) -> list[Channel]:
    """Those that the settings name; mails go by the application's own mail server."""
    channels: list[Channel] = []
    if settings.email is not None:
        email = settings.email
        channels.append(EmailChannel(partial(deliver, smtp), sender=smtp.sender, to=email.to))
    if settings.webhook is not None:
        channels.append(WebhookChannel(settings.webhook))
    if settings.actor is not None:
        channels.append(ActorChannel(settings.actor))
    return channels
