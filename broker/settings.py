"""The settings of the broker and its queues, read once, typed and frozen.

``broker/defaults.toml`` lists every one of them with its default and its unit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from broker.configuration import build, merge, read_toml, value_of
from broker.dead_letters import DeadRetention
from broker.errors import SettingsError
from broker.limits import QueueDepth, QueueLimit
from broker.notification_settings import NotificationSettings
from broker.process_settings import EncryptionSettings, LoggingSettings, RecyclingSettings
from broker.retention import Keep
from broker.retention import Retention as RecordRetention
from broker.server_url import server_url, without_password

T = TypeVar("T")
Environment: TypeAlias = Literal["development", "production"]
#: queue: jobs run in workers. inline: in the process that sends them.
Mode: TypeAlias = Literal["queue", "inline"]
AtLeastOne: TypeAlias = Annotated[int, Meta(ge=1)]

DEFAULTS_FILE: Final = Path(__file__).with_name("defaults.toml")
ENVIRONMENTS: Final[tuple[Environment, ...]] = ("development", "production")
MODES: Final[tuple[Mode, ...]] = ("queue", "inline")

_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
# Dramatiq's own rule for the name of a queue.
_QUEUE_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9._-]*")


#: How a wait is spread, so that jobs that failed together don't come back together. added:
#: between the wait and twice the wait. equal: between half of it and all of it. full: between
#: nothing and all of it. none: not at all.
Jitter: TypeAlias = Literal["added", "equal", "full", "none"]


class Backoff(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long a failed job waits for its next attempt."""

    #: exponential: the delay doubles with every attempt. fixed: it stays.
    type: Literal["exponential", "fixed"]
    #: Milliseconds before the second attempt.
    delay: AtLeastOne
    #: Milliseconds that no wait exceeds.
    longest: AtLeastOne = 604_800_000
    jitter: Jitter = "added"


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which records of finished jobs stay: the newest ``count``, none older than ``age`` ms."""

    count: Annotated[int, Meta(ge=0)] | None = None
    age: AtLeastOne | None = None


class DeadLetterSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which dead letters stay: the newest ``count`` (None: any), none older than ``age`` ms."""

    age: AtLeastOne
    count: Annotated[int, Meta(ge=0)] | None = None


class Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """At most ``limit`` starts in ``per`` milliseconds, over all processes."""

    limit: AtLeastOne
    per: AtLeastOne


#: True removes a record at once, False keeps it, a number keeps so many of the newest.
Removal: TypeAlias = bool | Annotated[int, Meta(ge=0)] | Retention


class QueueSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the jobs of one queue run; the spec's ``defaultJobOptions`` and ``FeatureConfig``."""

    #: Jobs of the queue that run at once in one process: a hard cap.
    concurrency: AtLeastOne
    #: Runs until a failing job is buried, the first included.
    attempts: AtLeastOne
    backoff: Backoff
    remove_on_complete: Removal
    remove_on_fail: Removal
    dead_letters: DeadLetterSettings
    rate: Rate | None = None
    #: Jobs of the queue that run at once in all processes; None: no limit.
    global_concurrency: AtLeastOne | None = None
    #: Jobs that may be ready, in flight or scheduled at once; None: any number.
    max_depth: AtLeastOne | None = None
    #: What a producer does at that depth: raise, or wait for up to ``block_for`` and then raise.
    on_full: Literal["reject", "block"] = "reject"
    #: Milliseconds.
    block_for: AtLeastOne = 10_000


class _QueueTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A queue's table in a file: whatever it leaves out comes from below."""

    name: str | UnsetType = UNSET
    concurrency: AtLeastOne | UnsetType = UNSET
    attempts: AtLeastOne | UnsetType = UNSET
    backoff: dict[str, Any] | UnsetType = UNSET
    remove_on_complete: Removal | UnsetType = UNSET
    remove_on_fail: Removal | UnsetType = UNSET
    dead_letters: dict[str, Any] | UnsetType = UNSET
    rate: Rate | UnsetType = UNSET
    global_concurrency: AtLeastOne | UnsetType = UNSET
    max_depth: AtLeastOne | UnsetType = UNSET
    on_full: Literal["reject", "block"] | UnsetType = UNSET
    block_for: AtLeastOne | UnsetType = UNSET


class _BackoffTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    type: Literal["exponential", "fixed"] | UnsetType = UNSET
    delay: AtLeastOne | UnsetType = UNSET
    longest: AtLeastOne | UnsetType = UNSET
    jitter: Jitter | UnsetType = UNSET


class _DeadLetterTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    age: AtLeastOne | UnsetType = UNSET
    count: Annotated[int, Meta(ge=0)] | UnsetType = UNSET


class _EnvironmentTables(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    queues: dict[str, dict[str, Any]] = {}
    encryption: dict[str, Any] = {}
    logging: dict[str, Any] = {}
    notifications: dict[str, Any] = {}
    recycling: dict[str, Any] = {}
    telemetry: dict[str, Any] = {}


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    max_message_bytes: AtLeastOne | UnsetType = UNSET
    defaults: dict[str, Any] = {}
    queues: dict[str, dict[str, Any]] = {}
    development: _EnvironmentTables = _EnvironmentTables()
    production: _EnvironmentTables = _EnvironmentTables()
    encryption: dict[str, Any] = {}
    logging: dict[str, Any] = {}
    notifications: dict[str, Any] = {}
    recycling: dict[str, Any] = {}
    #: Whoever owns these two validates them.
    telemetry: dict[str, Any] = {}
    application: dict[str, Any] = {}


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
        env = _environment(environ)
        base, own = read_toml(DEFAULTS_FILE), _own_file(environ, path)
        layers = [_read(base, env), _read(own, env)]
        defaults = _merged([file.defaults for file, _ in layers])
        names, queues = _queues(layers, defaults)
        return cls(
            redis_url=server_url(environ),
            queue_prefix=_queue_prefix(environ),
            env=env,
            mode=_mode(environ),
            queues=queues,
            queue_names=names,
            queue_defaults=build(QueueSettings, defaults, at="defaults"),
            max_message_bytes=_last_set([file.max_message_bytes for file, _ in layers]),
            encryption=EncryptionSettings.load(environ, _process_table("encryption", layers, env)),
            logging=build(LoggingSettings, _process_table("logging", layers, env), at="logging"),
            notifications=NotificationSettings.load(
                environ, _process_table("notifications", layers, env)
            ),
            recycling=build(
                RecyclingSettings, _process_table("recycling", layers, env), at="recycling"
            ),
            telemetry=_process_table("telemetry", layers, env),
            application=layers[-1][0].application,
        )

    def queue(self, name: str) -> QueueSettings:
        """The queue's settings, or the defaults for one that has no table."""
        return self.queues.get(name, self.queue_defaults)

    @property
    def concurrency(self) -> Mapping[str, int]:
        """The hard cap of any queue by its name, of one without a table too."""
        return _OfQueues(self, lambda queue: queue.concurrency)

    @property
    def retention(self) -> Mapping[str, RecordRetention]:
        """Which records of ended jobs any queue keeps."""
        return _OfQueues(self, _retention)

    @property
    def limits(self) -> Mapping[str, QueueLimit]:
        """The bounds over all processes of any queue that has some."""
        return _OfQueues(self, _limit)

    @property
    def depths(self) -> Mapping[str, QueueDepth]:
        """How long any queue may become that has a bound."""
        return _OfQueues(self, _depth)

    @property
    def dead_letters(self) -> Mapping[str, DeadRetention]:
        """Which dead letters of any queue stay, of one without a table too."""
        return _OfQueues(self, _dead_retention)

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


def _retention(queue: QueueSettings) -> RecordRetention:
    return RecordRetention(_kept(queue.remove_on_complete), _kept(queue.remove_on_fail))


def _kept(removal: Removal) -> Keep:
    if isinstance(removal, Retention):
        return Keep(removal.count, removal.age)
    if isinstance(removal, bool):
        return Keep(0) if removal else Keep()
    return Keep(removal)


def _dead_retention(queue: QueueSettings) -> DeadRetention:
    return DeadRetention(queue.dead_letters.age, queue.dead_letters.count)


def _limit(queue: QueueSettings) -> QueueLimit | None:
    if queue.rate is not None:
        return QueueLimit(queue.global_concurrency, queue.rate.limit, queue.rate.per)
    return None if queue.global_concurrency is None else QueueLimit(queue.global_concurrency)


def _depth(queue: QueueSettings) -> QueueDepth | None:
    if queue.max_depth is None:
        return None
    return QueueDepth(queue.max_depth, queue.block_for if queue.on_full == "block" else 0)


def _environment(environ: Mapping[str, str]) -> Environment:
    found = value_of(environ, "HEADRACE_ENV") or "development"
    for env in ENVIRONMENTS:
        if env == found:
            return env
    raise SettingsError("HEADRACE_ENV", found, f"must be one of {', '.join(ENVIRONMENTS)}")


def _mode(environ: Mapping[str, str]) -> Mode:
    found = value_of(environ, "HEADRACE_MODE") or "queue"
    for mode in MODES:
        if mode == found:
            return mode
    raise SettingsError("HEADRACE_MODE", found, f"must be one of {', '.join(MODES)}")


def _queue_prefix(environ: Mapping[str, str]) -> str:
    prefix = value_of(environ, "QUEUE_PREFIX") or "chatgenius"
    if not _PREFIX.fullmatch(prefix):
        # A brace would move the cluster's hash tag.
        rule = "must be 1 to 100 letters, digits or _ . : -"
        raise SettingsError("QUEUE_PREFIX", prefix, rule)
    return prefix


def _own_file(environ: Mapping[str, str], path: Path | None) -> dict[str, Any]:
    if path is None:
        named = value_of(environ, "HEADRACE_SETTINGS")
        path = None if named is None else Path(named)
    return {} if path is None else read_toml(path)


def _read(tables: Mapping[str, Any], env: Environment) -> tuple[_File, dict[str, dict[str, Any]]]:
    """The file, and its queues' tables as they hold for this environment.

    Both environments are validated, so that a slip in the production table shows in development.
    """
    file = build(_File, tables)
    _check_table(file.defaults, "defaults")
    if "name" in file.defaults:
        raise SettingsError(
            "defaults.name", file.defaults["name"], "belongs to a queue's own table"
        )
    for short, table in file.queues.items():
        _check_table(table, f"queues.{short}")
    for each in ENVIRONMENTS:
        for short, table in getattr(file, each).queues.items():
            _check_table(table, f"{each}.queues.{short}")
    specific: _EnvironmentTables = getattr(file, env)
    return file, merge(file.queues, specific.queues)


def _process_table(
    name: str, layers: Iterable[tuple[_File, Mapping[str, Any]]], env: Environment
) -> dict[str, Any]:
    """A table that no queue owns: what holds in both environments, then the environment's own."""
    files = [file for file, _ in layers]
    return _merged(getattr(where, name) for file in files for where in (file, getattr(file, env)))


def _check_table(table: Mapping[str, Any], at: str) -> None:
    read = build(_QueueTable, table, at=at)
    if read.backoff is not UNSET:
        build(_BackoffTable, read.backoff, at=f"{at}.backoff")
    if read.dead_letters is not UNSET:
        build(_DeadLetterTable, read.dead_letters, at=f"{at}.dead_letters")
    if read.name is not UNSET and not _QUEUE_NAME.fullmatch(read.name):
        rule = "must begin with a letter or _ and go on with letters, digits or . _ -"
        raise SettingsError(f"{at}.name", read.name, rule)


def _queues(
    layers: Iterable[tuple[_File, Mapping[str, Any]]], defaults: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, QueueSettings]]:
    names: dict[str, str] = {}
    queues: dict[str, QueueSettings] = {}
    for short, table in merge(*(tables for _, tables in layers)).items():
        name = table.pop("name", short)
        if name in queues:
            raise SettingsError(f"queues.{short}.name", name, "another table describes this queue")
        names[short] = name
        queues[name] = build(QueueSettings, merge(defaults, table), at=f"queues.{short}")
    return names, queues


def _merged(tables: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return merge(*tables)


def _last_set(values: Iterable[int | UnsetType]) -> int:
    found = [value for value in values if value is not UNSET]
    return found[-1]
