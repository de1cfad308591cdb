"""The settings of a process, as against those of a queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from broker.configuration import HIDDEN, Secret, Variable, build, from_environment, merge
from broker.errors import SettingsError


class LoggingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much a worker process logs, and in which shape."""

    #: The least level that is logged. Dramatiq's --verbose makes it debug.
    level: Literal["debug", "info", "warn", "error"] = "info"
    #: json: a line an event, for machines. console: for people. auto: console on a terminal.
    format: Literal["auto", "json", "console"] = "auto"


class RecyclingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a worker process makes way for a new one; None: never."""

    #: Jobs that it ran.
    max_jobs: Annotated[int, Meta(ge=1)] | None = None
    #: Bytes of memory that it holds (resident set).
    max_memory: Annotated[int, Meta(ge=1_000_000)] | None = None


class EncryptionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which jobs are encrypted, and where the keys are. Secrets hide themselves in its repr."""

    #: Whether the jobs of actors that say nothing are encrypted.
    default: bool = False
    #: Whether a body in clear for an encrypted actor is refused.
    require: bool = False
    #: A file with the keys, closed to others.
    key_file: str | None = None
    #: The id of the key that seals; None: as the file says, or the first of the variable.
    active_key: str | None = None
    #: The keys themselves; in the environment only.
    keys: Secret | None = None
    #: What unwraps wrapped keys, 32 bytes in base64; in the environment only.
    key_encryption_key: Secret | None = None

    @classmethod
    def load(cls, environ: Mapping[str, str], table: Mapping[str, Any]) -> EncryptionSettings:
        """Read the environment over the file's ``[encryption]`` table.

        Raises:
          SettingsError: a setting is unknown, breaks its rule, or is a secret in the file.
        """
        for name in _SECRET:
            if name in table:
                rule = f"belongs into the environment, as {_NAMES[name]}"
                raise SettingsError(f"encryption.{name}", HIDDEN, rule)
        tables = merge(table, from_environment(environ, _VARIABLES))
        loaded = build(cls, tables, at="encryption", names=_NAMES, secret=_SECRET)
        if loaded.keys is not None and loaded.key_file is not None:
            raise SettingsError("HEADRACE_KEYS", HIDDEN, "can't be set beside a key file")
        if loaded.keys is None and loaded.key_file is None:
            for name in ("default", "require"):
                if getattr(loaded, name):
                    rule = "needs keys: HEADRACE_KEYS or a key file"
                    raise SettingsError(f"encryption.{name}", True, rule)
        return loaded


_VARIABLES: Final = (
    Variable("HEADRACE_KEYS", "keys"),
    Variable("HEADRACE_KEY_FILE", "key_file"),
    Variable("HEADRACE_ACTIVE_KEY", "active_key"),
    Variable("HEADRACE_KEY_ENCRYPTION_KEY", "key_encryption_key"),
)
_NAMES: Final = {variable.field: variable.name for variable in _VARIABLES}
_SECRET: Final = ("keys", "key_encryption_key")
