"""The settings of who is told of failures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from broker.configuration import HIDDEN, Secret, Variable, build, from_environment, merge
from broker.errors import SettingsError


class EmailNotices(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Notices by mail, over the application's mail server."""

    to: Annotated[
        list[Annotated[str, Meta(pattern=r"^[^\s@<>,]+@[^\s@<>,]+$")]], Meta(min_length=1)
    ]


class WebhookNotices(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Notices by POST, as JSON."""

    #: http:// or https://; often a secret itself.
    url: Secret
    #: Sent as a bearer token.
    token: Secret | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 10.0


class NotificationSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who is told of failures, and how often."""

    #: Milliseconds between two notices: all that fails in between is in the second one.
    interval: Annotated[int, Meta(ge=1_000, le=86_400_000)] = 300_000
    email: EmailNotices | None = None
    webhook: WebhookNotices | None = None
    #: The name of an actor that is sent the notice as its one argument.
    actor: Annotated[str, Meta(min_length=1)] | None = None

    @classmethod
    def load(cls, environ: Mapping[str, str], table: Mapping[str, Any]) -> NotificationSettings:
        """The table, and the secrets that the environment has.

        Raises:
          SettingsError: a setting is unknown or breaks its rule; a secret is not shown.
        """
        tables = merge(table, from_environment(environ, _VARIABLES))
        names = {variable.field: variable.name for variable in _VARIABLES}
        loaded = build(cls, tables, at="notifications", names=names, secret=tuple(names))
        if loaded.webhook is not None:
            parts = urlsplit(loaded.webhook.url.reveal())
            if parts.scheme not in ("http", "https") or not parts.hostname:
                rule = "must be an http:// or https:// URL with a host"
                raise SettingsError("notifications.webhook.url", HIDDEN, rule)
        return loaded


_VARIABLES: Final = (
    Variable("NOTIFICATIONS_WEBHOOK_URL", "webhook.url"),
    Variable("NOTIFICATIONS_WEBHOOK_TOKEN", "webhook.token"),
)
