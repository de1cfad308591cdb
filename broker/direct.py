"""Commands straight on a pool's connections: what an enqueue costs is mostly redis-py."""

from __future__ import annotations

from typing import Any

import redis

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
        connection = self._connection()
        answered = False
        try:
            connection.send_packed_command(connection.pack_command(*args))
            reply = connection.read_response()
            answered = True
            return reply
        except redis.ResponseError:
            answered = True
            raise
        finally:
            if not answered:
                connection.disconnect()
            self._pool.release(connection)

    def _connection(self) -> redis.Connection:
        try:
            return self._pool.get_connection()
        except Exception:
            raise
        except BaseException:
            # In the middle of a handshake, after which redis-py keeps the connection.
            self._pool.disconnect(inuse_connections=False)
            raise


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
