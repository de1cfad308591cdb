"""The settings of the broker and its queues, read once, typed and frozen.

``broker/defaults.toml`` lists every one of them with its default and its unit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypeVar, get_args

import msgspec

from broker.configuration import build, merge, read_toml, value_of
from broker.errors import SettingsError
from broker.heartbeat import Heartbeat
from broker.limits import QueueDepth, QueueLimit
from broker.notification_settings import NotificationSettings
from broker.process_settings import EncryptionSettings, LoggingSettings, RecyclingSettings
from broker.queue_settings import QueueSettings
from broker.retention import DeadRetention, Retention
from broker.server_url import server_url, without_password
from broker.settings_files import ENVIRONMENTS, Environment, SettingsFiles

T = TypeVar("T")
#: queue: jobs run in workers. inline: in the process that sends them.
Mode: TypeAlias = Literal["queue", "inline"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)

DEFAULTS_FILE: Final = Path(__file__).with_name("defaults.toml")

_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{1,100}")


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything the broker is built from. Its repr hides the password."""

    redis_url: str
    #: The namespace of every key.
    queue_prefix: str
    env: Environment
    mode: Mode
    #: By the name of the queue, as in ``notification-queue``.
    queues: dict[str, QueueSettings]
    #: The short name of a queue to its name: ``notifications`` to ``notification-queue``.
    queue_names: dict[str, str]
    #: For a queue that ``queues`` doesn't list.
    queue_defaults: QueueSettings
    max_message_bytes: int
    encryption: EncryptionSettings
    logging: LoggingSettings
    notifications: NotificationSettings
    recycling: RecyclingSettings
    #: Where a scheduler, or the process that reports the queues, says that it gets on.
    heartbeat: Heartbeat | None
    #: The ``[telemetry]`` tables over one another, not validated here.
    telemetry: dict[str, Any]
    #: The file's ``[application]`` table, not validated here.
    application: dict[str, Any]

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, path: Path | None = None) -> Settings:
        """Read the environment and the file, the file that ``HEADRACE_SETTINGS`` names by default.

        Raises:
          SettingsError: a setting is unknown or breaks its rule; names field, value and rule.
        """
        environ = os.environ if environ is None else environ
        env = _one_of(ENVIRONMENTS, environ, "HEADRACE_ENV")
        files = SettingsFiles([read_toml(DEFAULTS_FILE), _own_file(environ, path)], env)
        names, queues = _queues(files)
        return cls(
            redis_url=server_url(environ),
            queue_prefix=_queue_prefix(environ),
            env=env,
            mode=_one_of(MODES, environ, "HEADRACE_MODE"),
            queues=queues,
            queue_names=names,
            queue_defaults=build(QueueSettings, files.defaults(), at="defaults"),
            max_message_bytes=files.max_message_bytes,
            encryption=EncryptionSettings.load(environ, files.table("encryption")),
            logging=build(LoggingSettings, files.table("logging"), at="logging"),
            notifications=NotificationSettings.load(environ, files.table("notifications")),
            recycling=build(RecyclingSettings, files.table("recycling"), at="recycling"),
            heartbeat=_heartbeat(environ),
            telemetry=files.table("telemetry"),
            application=files.application,
        )

    def queue(self, name: str) -> QueueSettings:
        """The queue's settings, or the defaults for one that has no table."""
        return self.queues.get(name, self.queue_defaults)

    @property
    def concurrency(self) -> Mapping[str, int]:
        """The hard cap of any queue by its name, of one without a table too."""
        return _OfQueues(self, lambda queue: queue.concurrency)

    @property
    def retention(self) -> Mapping[str, Retention]:
        """Which records of ended jobs any queue keeps."""
        return _OfQueues(self, lambda queue: queue.retention)

    @property
    def limits(self) -> Mapping[str, QueueLimit]:
        """The bounds over all processes of any queue that has some."""
        return _OfQueues(self, lambda queue: queue.limit)

    @property
    def depths(self) -> Mapping[str, QueueDepth]:
        """How long any queue may become that has a bound."""
        return _OfQueues(self, lambda queue: queue.depth)

    @property
    def dead_letters(self) -> Mapping[str, DeadRetention]:
        """Which dead letters of any queue stay, of one without a table too."""
        return _OfQueues(self, lambda queue: queue.dead_retention)

    def __repr__(self) -> str:
        return (
            f"Settings(redis_url={without_password(self.redis_url)!r}, "
            f"queue_prefix={self.queue_prefix!r}, env={self.env!r}, queues={sorted(self.queues)})"
        )

    __str__ = __repr__


class _OfQueues(Mapping[str, T]):
    """What holds for a queue by its name, of one without a table too.

    ``read`` takes it from the queue's settings, and returns None where nothing holds. Those
    that have a table are listed.
    """

    def __init__(self, settings: Settings, read: Callable[[QueueSettings], T | None]) -> None:
        self._settings = settings
        self._read = read

    def __getitem__(self, queue: str) -> T:
        found = self._read(self._settings.queue(queue))
        if found is None:
            raise KeyError(queue)
        return found

    def __iter__(self) -> Iterator[str]:
        return (queue for queue in self._settings.queues if queue in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _one_of(known: tuple[T, ...], environ: Mapping[str, str], name: str) -> T:
    """The variable's value; the first one that is known if it is not set."""
    found = value_of(environ, name)
    for each in known:
        if found in (None, each):
            return each
    raise SettingsError(name, found, f"must be one of {', '.join(map(str, known))}")


def _queue_prefix(environ: Mapping[str, str]) -> str:
    prefix = value_of(environ, "QUEUE_PREFIX") or "chatgenius"
    if not _PREFIX.fullmatch(prefix):
        # A brace would move the cluster's hash tag.
        rule = "must be 1 to 100 letters, digits or _ . : -"
        raise SettingsError("QUEUE_PREFIX", prefix, rule)
    return prefix


def _heartbeat(environ: Mapping[str, str]) -> Heartbeat | None:
    path = value_of(environ, "HEADRACE_HEARTBEAT_FILE")
    return None if path is None else Heartbeat(Path(path))


def _own_file(environ: Mapping[str, str], path: Path | None) -> dict[str, Any]:
    if path is None:
        named = value_of(environ, "HEADRACE_SETTINGS")
        path = None if named is None else Path(named)
    return {} if path is None else read_toml(path)


def _queues(files: SettingsFiles) -> tuple[dict[str, str], dict[str, QueueSettings]]:
    names: dict[str, str] = {}
    queues: dict[str, QueueSettings] = {}
    for short, table in files.table("queues").items():
        name = table.pop("name", short)
        if name in queues:
            raise SettingsError(f"queues.{short}.name", name, "another table describes this queue")
        names[short] = name
        queues[name] = build(QueueSettings, merge(files.defaults(), table), at=f"queues.{short}")
    return names, queues
