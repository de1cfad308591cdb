"""Every error Headrace raises, and the one place where redis-py's become Dramatiq's."""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence

import redis
from dramatiq.errors import ConnectionClosed, ConnectionFailed, RateLimitExceeded
from dramatiq.middleware import MiddlewareError, SkipMessage

from broker.evidence import Reason


class HeadraceError(Exception):
    """Base of the errors that are not Dramatiq's own."""


class _FieldError(HeadraceError):
    """Says which field was wrong, what it held and which rule it broke."""

    def __init__(self, field: str, value: object, rule: str) -> None:
        super().__init__(f"{field}: {rule}, got {value!r}")
        self.field = field
        self.value = value
        self.rule = rule


class SettingsError(_FieldError):
    """A setting is unknown or breaks its rule."""


class InvalidOption(_FieldError, ValueError):
    """An option of a message or of the broker breaks its rule; nothing was enqueued."""


class InvalidActorOption(InvalidOption, MiddlewareError):
    """An actor was declared with an option that breaks its rule."""


class RateLimited(HeadraceError, RateLimitExceeded):
    """An actor raises it when the other side wants fewer requests, as with HTTP 429.

    No more jobs of the key start for ``retry_after_ms`` milliseconds, and this one runs again after
    that; no attempt is used up. Without ``key`` it is the job's own ``rate_key`` or else its
    ``concurrency_key``; a job that has neither is put off alone.

    It needs the middleware :class:`middleware.rate_limits.RateLimits`; without that it is a failure
    like any other.

    Raises:
      InvalidOption: the time is no integer of at least 0, or the key is empty.
    """

    def __init__(self, retry_after_ms: int, key: str | None = None) -> None:
        if type(retry_after_ms) is not int or retry_after_ms < 0:
            raise InvalidOption(
                "retry_after_ms", retry_after_ms, "must be an integer of at least 0"
            )
        if key == "":
            raise InvalidOption("key", key, "must be a non-empty string")
        # Dramatiq leaves it untyped.
        super().__init__(f"to be tried again in {retry_after_ms} ms")  # type: ignore[no-untyped-call]
        self.retry_after_ms = retry_after_ms
        self.key = key


class UnknownSchedule(_FieldError, LookupError):
    """There is no schedule of this name."""


class QueueFull(HeadraceError):
    """The queue is as long as it may be; nothing was enqueued."""

    def __init__(self, queue: str, depth: int, limit: int) -> None:
        super().__init__(
            f"queue {queue!r}: {depth} jobs are waiting or running, the limit is {limit}"
        )
        self.queue = queue
        self.depth = depth
        self.limit = limit


class QueueClosed(HeadraceError):
    """The queue takes nothing more from producers; nothing was enqueued."""

    def __init__(self, queue: str) -> None:
        super().__init__(f"queue {queue!r} is closed")
        self.queue = queue


def queue_refusal(
    error: redis.ResponseError, queue: str, max_depth: int = 0
) -> QueueClosed | QueueFull | None:
    """What a script says of a queue that takes nothing; None if it says something else."""
    word, _, depth = str(error).partition(" ")
    if word == "CLOSED":
        return QueueClosed(queue)
    return QueueFull(queue, int(depth), max_depth) if word == "FULL" else None


class NotRedriven(HeadraceError):
    """Dead letters stay where they are: they have more fields than a script can write.

    All the others of the redrive have moved; ``moved`` is how many. ``ids`` are those that stay.
    """

    def __init__(self, queue: str, moved: int, ids: Sequence[str]) -> None:
        shown = ", ".join(map(repr, ids[:3])) + (f" and {len(ids) - 3} more" if ids[3:] else "")
        super().__init__(
            f"queue {queue!r}: {moved} dead letters moved, and {len(ids)} can't, for they have too "
            f"many fields: {shown}"
        )
        self.queue = queue
        self.moved = moved
        self.ids = tuple(ids)


class MessageTooLarge(HeadraceError, ValueError):
    """The encoded message is over the limit; nothing was enqueued. Sizes are bytes."""

    def __init__(self, actor: str, size: int, limit: int) -> None:
        super().__init__(f"message for actor {actor!r}: {size} bytes encoded, the limit is {limit}")
        self.actor = actor
        self.size = size
        self.limit = limit


class Refused(HeadraceError, SkipMessage):
    """Raised by a middleware before a message is processed: it is buried for ``reason``.

    The job does not run and is not retried.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


class AwaitsDeploy(Refused):
    """A later deploy may know what to do with the message.

    It is retried for the broker's ``unknown_actor_grace`` and then buried for ``reason``.
    """


class NotInline(HeadraceError, RuntimeError):
    """It needs the server, and jobs run inline here."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: not in inline mode, where no server keeps anything")


class PickleRefused(HeadraceError):
    """Pickled bodies would let whoever writes to Redis run code in the workers."""

    def __init__(self, where: str) -> None:
        super().__init__(f"{where}: must not be a PickleEncoder; its bodies run code when read")


class UnsupportedClient(HeadraceError, ValueError):
    """The redis client handed to the broker can't carry bytes unchanged."""


class ServerRefused(ConnectionFailed):
    """A worker must not run against this server; it exits with Dramatiq's connection code."""

    def __init__(self, message: str) -> None:
        super().__init__(message)  # type: ignore[no-untyped-call]  # Dramatiq leaves it untyped


class DatabaseRefused(ServerRefused):
    """The server has no database of this number."""


class ServerTooOld(ServerRefused):
    """The server lacks commands or script flags that the transitions need."""


class EvictionPolicyRefused(ServerRefused):
    """The server may evict keys, which would lose jobs without a trace."""


class AuthenticationRefused(ServerRefused):
    """The server rejected the credentials or denied a command by its ACL."""


class ScriptDenied(AuthenticationRefused):
    """The user may not run all of a script, so nothing of it was run.

    ``denied`` are the commands, each with its key; ``headrace acl`` prints what the roles need.
    """

    def __init__(self, script: str, denied: Sequence[str]) -> None:
        shown = ", ".join(denied[:3]) + (f" and {len(denied) - 3} more" if denied[3:] else "")
        super().__init__(f"the server denies {script!r} to this user, for want of {shown}")
        self.script = script
        self.denied = tuple(denied)


class CertificateRefused(ServerRefused):
    """The server's certificate is not to be trusted, or the server does not trust ours."""


class ClusterClientRequired(ServerRefused):
    """The server is a part of a cluster, and the client can reach no other part."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"client: must be a redis.RedisCluster, got one for a single server; it is {what}"
        )


class ServerOutOfMemory(ConnectionClosed):
    """The server is at maxmemory: the enqueue wrote nothing and may be repeated."""

    def __init__(self, message: str) -> None:
        super().__init__(message)  # type: ignore[no-untyped-call]  # Dramatiq leaves it untyped


_TRANSIENT = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
    # No node answers, no node has the slot, or it is on its way for longer than redis-py waits.
    redis.exceptions.RedisClusterException,
    redis.exceptions.ClusterError,
)

# Codes that redis-py has no class of its own for.
_TRANSIENT_CODES = (
    "MISCONF",
    "NOREPLICAS",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "READONLY",
    "BUSY",
    "UNBLOCKED",
)

# Of SELECT when a connection is made; a cluster knows number 0 alone.
_NO_DATABASE = ("DB index is out of range", "SELECT is not allowed in cluster mode")

_DENIED = (redis.AuthenticationError, redis.exceptions.NoPermissionError)
#: The last two: of a command in a script, on Redis and on Valkey; a script may put a place before.
_DENIED_TEXT = re.compile(
    "NOAUTH|WRONGPASS|NOPERM|.*(The user executing the script can't|ACL failure in script)"
)


def is_denial(error: redis.RedisError) -> bool:
    """Whether the server refuses the credentials, or a command by its access control."""
    return isinstance(error, _DENIED) or _DENIED_TEXT.match(str(error)) is not None


class translated:  # noqa: N801 - a with statement reads it as a verb
    """Raises Dramatiq's connection errors in place of redis-py's.

    redis-py's TimeoutError is no ConnectionError and a refusal by the server is a
    ResponseError; Dramatiq's worker retries only BrokerConnectionError. A class, because a
    generator would cost each command as much as the encoding of its message.

    Raises:
      AuthenticationRefused: wrong credentials, or a command denied by the ACL.
      CertificateRefused: one side does not trust the other's certificate.
      ServerOutOfMemory: the server is at maxmemory.
      ClusterClientRequired: the key is on another node of a cluster.
      DatabaseRefused: the server has no database of the client's number.
      ConnectionClosed: anything that may pass by itself.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: object
    ) -> None:
        if error is not None and (ours := _translation(error)) is not None:
            raise ours from error


def _translation(error: BaseException) -> Exception | None:
    if isinstance(error, _DENIED):
        return AuthenticationRefused(f"the server refused access: {error}")
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        return ServerOutOfMemory(f"the server is out of memory: {error}")
    if isinstance(error, redis.exceptions.MovedError):
        return ClusterClientRequired("not the node that keeps this queue")
    if isinstance(error, _TRANSIENT):
        if (refusal := _certificate_error(error)) is not None:
            return CertificateRefused(f"the server's certificate or ours: {refusal}")
        return ConnectionClosed(error)
    if not isinstance(error, redis.ResponseError):
        return None
    if is_denial(error):
        return AuthenticationRefused(f"the server refused access: {error}")
    if str(error).startswith(_NO_DATABASE):
        return DatabaseRefused(f"the server has no such database: {error}")
    return ConnectionClosed(error) if str(error).startswith(_TRANSIENT_CODES) else None


def _certificate_error(error: BaseException) -> ssl.SSLError | None:
    """Of TLS, what is about a certificate and will not pass by itself."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError) and re.search("CERTIFICATE|UNKNOWN_CA", str(seen.reason)):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None
