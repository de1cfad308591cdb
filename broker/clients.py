"""Clients made from the application's own, for the workers' different needs."""

from __future__ import annotations

from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from broker.errors import UnsupportedClient


def derive(client: Any, *, socket_timeout: float) -> Any:
    """A client to the same server that never repeats a command by itself.

    A silent repeat of a fetch strands entries and that of a settlement looks like a lost
    lease, so whoever calls must know. The protocol is pinned: RESP3 changes the shape of
    XREADGROUP's reply. ``socket_timeout`` is in seconds.
    """
    overrides = {"socket_timeout": socket_timeout, "retry": Retry(NoBackoff(), 0), "protocol": 2}
    if isinstance(client, redis.RedisCluster):
        kwargs = {
            k: v for k, v in client.get_connection_kwargs().items() if k not in ("host", "port")
        }
        nodes = list(client.nodes_manager.startup_nodes.values())
        return redis.RedisCluster(startup_nodes=nodes, **{**kwargs, **overrides})
    pool = client.connection_pool
    kwargs = {**pool.connection_kwargs, **overrides}
    # Maintenance notifications need RESP3; their pool-bound handlers must not be carried over.
    kwargs = {k: v for k, v in kwargs.items() if "maint_notifications" not in k}
    kwargs["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)
    if isinstance(pool, redis.sentinel.SentinelConnectionPool):
        return pool.sentinel_manager.master_for(pool.service_name, **kwargs)
    return redis.Redis(
        connection_pool=redis.ConnectionPool(connection_class=pool.connection_class, **kwargs)
    )


def check(client: Any) -> None:
    """Refuse a client that decodes replies: payloads are bytes.

    Raises:
      UnsupportedClient: the client has ``decode_responses=True``.
    """
    if isinstance(client, redis.RedisCluster):
        decodes = client.get_connection_kwargs().get("decode_responses")
    else:
        decodes = client.connection_pool.connection_kwargs.get("decode_responses")
    if decodes:
        raise UnsupportedClient("client: decode_responses must be False, got True")
