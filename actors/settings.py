"""The application's own settings: mail, push, storage, images, inboxes.

Each is an environment variable, or a key of the ``[application]`` table of the file that
HEADRACE_SETTINGS names; the variable wins. ``docs/jobs.md`` lists them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Meta

from broker.configuration import Secret, Variable, build, from_environment, merge
from broker.errors import SettingsError

# Above twice its own default limit Pillow refuses to open an image, whatever we allow.
_MOST_PIXELS: Final = 178_956_970


class SmtpSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The mail server."""

    host: Annotated[str, Meta(min_length=1)] = "localhost"
    port: Annotated[int, Meta(ge=1, le=65_535)] = 25
    #: none, starttls (upgraded, or not sent at all) or implicit (TLS from the first byte).
    tls: Literal["none", "starttls", "implicit"] = "none"
    #: A file with the certificate authorities to trust; None: the system's.
    ca_file: str | None = None
    username: str | None = None
    password: Secret | None = None
    #: The address that mails come from.
    sender: Annotated[str, Meta(pattern=r"^[^\s@<>]+@[^\s@<>]+$")] = "chatgenius@localhost"
    timeout_s: Annotated[float, Meta(gt=0, le=300)] = 15.0


class PushSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The push gateway."""

    #: Where notifications are posted to; None: there is no gateway.
    url: Annotated[str, Meta(pattern=r"^https?://[^\s/]+")] | None = None
    token: Secret | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=300)] = 10.0

    def __repr__(self) -> str:
        url = None if self.url is None else shown_url(self.url)
        return f"PushSettings(url={url!r}, token={self.token!r}, timeout_s={self.timeout_s})"


class StorageSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where files are."""

    #: A local folder or any URL of fsspec, as in s3://bucket/folder.
    url: Annotated[str, Meta(min_length=1)] = "var/storage"

    def __repr__(self) -> str:
        return f"StorageSettings(url={shown_url(self.url)!r})"


class ImageSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an image may ask of a worker."""

    #: Width times height of a source or a result; above it the job is buried.
    max_pixels: Annotated[int, Meta(ge=1, le=_MOST_PIXELS)] = 50_000_000


class InboxSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Users' inboxes."""

    #: About how many notifications an inbox keeps; the oldest go first.
    length: Annotated[int, Meta(ge=1)] = 1_000


class DigestSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Mails of several notifications."""

    #: A digest goes out when nothing was added for so long, in milliseconds.
    pause_ms: Annotated[int, Meta(ge=1)] = 60_000
    #: No notification waits longer than about this for its digest, in milliseconds.
    longest_wait_ms: Annotated[int, Meta(ge=1)] = 900_000


class ApplicationSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything the jobs are configured by. Secrets hide themselves in its repr."""

    smtp: SmtpSettings = SmtpSettings()
    push: PushSettings = PushSettings()
    storage: StorageSettings = StorageSettings()
    images: ImageSettings = ImageSettings()
    inbox: InboxSettings = InboxSettings()
    digest: DigestSettings = DigestSettings()

    @classmethod
    def load(
        cls, environ: Mapping[str, str] | None = None, table: Mapping[str, Any] | None = None
    ) -> ApplicationSettings:
        """Read the environment over the settings file's ``[application]`` table.

        Raises:
          SettingsError: a setting is unknown or breaks its rule; names field, value and rule.
        """
        environ = os.environ if environ is None else environ
        tables = merge(table or {}, from_environment(environ, _VARIABLES))
        loaded = build(cls, tables, at="application", names=_NAMES, secret=_SECRET)
        _check_login(loaded.smtp)
        return loaded


def shown_url(url: str) -> str:
    """The URL without the parts that may be secret: login and query."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))


def _check_login(smtp: SmtpSettings) -> None:
    if (smtp.username is None) is not (smtp.password is None):
        missing = "SMTP_PASSWORD" if smtp.password is None else "SMTP_USERNAME"
        raise SettingsError(missing, None, "SMTP_USERNAME and SMTP_PASSWORD go together")
    if smtp.username is not None and smtp.tls == "none":
        rule = "must be starttls or implicit with a login, which would travel in the clear"
        raise SettingsError("SMTP_TLS", smtp.tls, rule)


_VARIABLES: Final = (
    Variable("SMTP_HOST", "smtp.host"),
    Variable("SMTP_PORT", "smtp.port", int),
    Variable("SMTP_TLS", "smtp.tls"),
    Variable("SMTP_CA_FILE", "smtp.ca_file"),
    Variable("SMTP_USERNAME", "smtp.username"),
    Variable("SMTP_PASSWORD", "smtp.password"),
    Variable("SMTP_FROM", "smtp.sender"),
    Variable("SMTP_TIMEOUT_S", "smtp.timeout_s", float),
    Variable("PUSH_GATEWAY_URL", "push.url"),
    Variable("PUSH_GATEWAY_TOKEN", "push.token"),
    Variable("PUSH_TIMEOUT_S", "push.timeout_s", float),
    Variable("STORAGE_URL", "storage.url"),
    Variable("IMAGE_MAX_PIXELS", "images.max_pixels", int),
    Variable("INBOX_LENGTH", "inbox.length", int),
    Variable("DIGEST_PAUSE_MS", "digest.pause_ms", int),
    Variable("DIGEST_LONGEST_WAIT_MS", "digest.longest_wait_ms", int),
)
_NAMES: Final = {variable.field: variable.name for variable in _VARIABLES}
# URLs may carry a login.
_SECRET: Final = ("smtp.password", "push.token", "push.url", "storage.url")
