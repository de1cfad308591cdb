"""Settings files over one another, checked whole before anything is read out of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec
from msgspec import UNSET, UnsetType

from broker.checks import QUEUE_NAME
from broker.configuration import build, merge
from broker.errors import SettingsError
from broker.queue_settings import AtLeastOne, QueueSettings

Environment: TypeAlias = Literal["development", "production"]
ENVIRONMENTS: Final[tuple[Environment, ...]] = get_args(Environment)


class _Tables(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a file may say of all environments, and of each; whoever owns a table checks it."""

    queues: dict[str, dict[str, Any]] = {}
    encryption: dict[str, Any] = {}
    logging: dict[str, Any] = {}
    notifications: dict[str, Any] = {}
    recycling: dict[str, Any] = {}
    telemetry: dict[str, Any] = {}


class _File(_Tables, frozen=True, forbid_unknown_fields=True, kw_only=True):
    max_message_bytes: AtLeastOne | UnsetType = UNSET
    defaults: dict[str, Any] = {}
    development: _Tables = _Tables()
    production: _Tables = _Tables()
    application: dict[str, Any] = {}


class SettingsFiles:
    """The tables of files as they hold in one environment; the last file wins.

    The first one is complete, the others say what is otherwise. Within a file what is said of an
    environment wins over what is said of all.

    Raises:
      SettingsError: a setting is unknown or breaks its rule. Those of every environment are
        checked, so that a slip in the production tables shows in development.
    """

    def __init__(self, files: Sequence[Mapping[str, Any]], env: Environment) -> None:
        self._files = [build(_File, tables) for tables in files]
        self._env = env
        for file in self._files:
            self._check(file)

    @property
    def max_message_bytes(self) -> int:
        return [f.max_message_bytes for f in self._files if f.max_message_bytes is not UNSET][-1]

    @property
    def application(self) -> dict[str, Any]:
        """The last file's own table, which is not checked."""
        return self._files[-1].application

    def defaults(self) -> dict[str, Any]:
        """What holds for a queue that has no table."""
        return merge(*(file.defaults for file in self._files))

    def table(self, name: str) -> dict[str, Any]:
        """What the files say under this name."""
        return merge(*(getattr(tables, name) for tables in self._tables()))

    def _tables(self) -> Iterator[_Tables]:
        for file in self._files:
            yield from (file, getattr(file, self._env))

    def _check(self, file: _File) -> None:
        if "name" in file.defaults:
            rule = "belongs to a queue's own table"
            raise SettingsError("defaults.name", file.defaults["name"], rule)
        self._check_queue(file.defaults, "defaults")
        for short, table in file.queues.items():
            self._check_queue(table, f"queues.{short}")
        for env in ENVIRONMENTS:
            for short, table in getattr(file, env).queues.items():
                self._check_queue(table, f"{env}.queues.{short}")

    def _check_queue(self, table: Mapping[str, Any], at: str) -> None:
        own = dict(table)
        name = own.pop("name", "_")
        if not (isinstance(name, str) and QUEUE_NAME.fullmatch(name)):
            rule = "must begin with a letter or _ and go on with letters, digits or . _ -"
            raise SettingsError(f"{at}.name", name, rule)
        build(QueueSettings, merge(self._files[0].defaults, own), at=at)
