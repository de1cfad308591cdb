"""Commands straight on a pool's connections: what an enqueue costs is mostly redis-py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

from broker.clients import routed
from broker.scripts import Client


class Direct:
    """Sends a command and reads its reply without the layers of ``Redis.execute_command``.

    The pool stays the client's own, and so do its connections' address, credentials, TLS,
    time-outs and health checks. What is left out is the client's repeating, redis-py's own
    metrics, and the conversion of replies, of which a script's needs none.

    A connection that was left between a command and its reply, for instance by Dramatiq's
    TimeLimit, is closed: its late reply would answer the next command.
    """

    def __init__(self, pool: redis.ConnectionPool) -> None:
        self._pool = pool

    def execute_command(self, *args: Any) -> Any:
        (reply,) = self.pipeline(args)
        if isinstance(reply, redis.ResponseError):
            raise reply
        return reply

    def pipeline(self, *commands: Sequence[Any]) -> list[Any]:
        """Send all, then read the reply of each; that of a refused one is its error."""
        with _Exchange(self._pool) as connection:
            connection.send_packed_command(connection.pack_commands(commands))
            return [_reply(connection) for _ in commands]

    def pipeline_until(self, due_s: float, *commands: Sequence[Any]) -> list[Any]:
        """As :meth:`pipeline`, but the first one blocks for ``due_s`` seconds at the most.

        A server ends a BLOCK at its next tick, a tenth of a second apart by default; this
        wakes itself up by CLIENT UNBLOCK.
        """
        with _Exchange(self._pool) as connection:
            connection.send_packed_command(connection.pack_commands((("CLIENT", "ID"), *commands)))
            own_id = _reply(connection)
            if not connection.can_read(timeout=due_s):
                self.pipeline(("CLIENT", "UNBLOCK", own_id))
            return [_reply(connection) for _ in commands]


class _Exchange:
    """A connection of the pool's, for commands and all of their replies."""

    def __init__(self, pool: redis.ConnectionPool) -> None:
        self._pool = pool

    def __enter__(self) -> redis.Connection:
        try:
            self._connection = self._pool.get_connection()
        except Exception:
            raise
        except BaseException:
            # In the middle of a handshake, after which redis-py keeps the connection.
            self._pool.disconnect(inuse_connections=False)
            raise
        return self._connection

    def __exit__(self, error: object, *_: object) -> None:
        try:
            if error is not None:
                self._connection.disconnect()
        finally:
            self._pool.release(self._connection)


def _reply(connection: redis.Connection) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error


class Repeating:
    """As :class:`Direct`; a command without a reply is handed to the client, which repeats it.

    For commands that may run twice only: those that carry a token.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._direct = Direct(client.connection_pool)
        self._client = client

    def execute_command(self, *args: Any) -> Any:
        try:
            return self._direct.execute_command(*args)
        except (redis.ConnectionError, redis.TimeoutError):
            return self._client.execute_command(*args)


def direct(client: Any, *, repeat: bool) -> Client:
    """The quickest way to run scripts through a client.

    A cluster's client, and a subclass that may have its own ``execute_command``, run them
    themselves.
    """
    if type(client) is not redis.Redis:
        return client  # type: ignore[no-any-return]
    return Repeating(client) if repeat else Direct(client.connection_pool)


def pipeline(
    client: Any, key: str, *commands: Sequence[Any], due_s: float | None = None
) -> list[Any]:
    """Commands for the server that keeps ``key``; their replies, of which some are errors.

    The first one may block, until ``due_s`` seconds have passed if that is given; with a
    cluster, which is not asked directly, it may be a tenth of a second longer.
    """
    if type(client) is redis.Redis:
        own = Direct(client.connection_pool)
        return own.pipeline(*commands) if due_s is None else own.pipeline_until(due_s, *commands)
    pipe, node = client.pipeline(transaction=False), routed(client, key)
    for command in commands:
        pipe.execute_command(*command, **node)
    return list(pipe.execute(raise_on_error=False))
