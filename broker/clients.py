"""Clients made from the application's own, for the workers' different needs."""

from __future__ import annotations

from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from redis.sentinel import SentinelConnectionPool

from broker.errors import UnsupportedClient, translated


def derive(client: Any, *, socket_timeout: float | None) -> Any:
    """A client to the same server that never repeats a command by itself.

    A silent repeat of a fetch strands entries and that of a settlement looks like a lost
    lease, so whoever calls must know. The protocol is pinned: RESP3 changes the shape of
    XREADGROUP's reply. ``socket_timeout`` is in seconds; None waits for ever.

    How the client connects is kept: address, socket, Sentinel, credentials, TLS, health
    checks. A pool's limit of connections is not: each consumer needs one to block on.

    Raises:
      ConnectionClosed: no node of a cluster can be reached now.
    """
    overrides = {
        "socket_timeout": socket_timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "legacy_responses": True,
    }
    if isinstance(client, redis.RedisCluster):
        return _derive_cluster(client, overrides)
    pool = client.connection_pool
    # Maintenance notifications need RESP3; their pool-bound handlers must not be carried over.
    kwargs = {k: v for k, v in pool.connection_kwargs.items() if "maint_notifications" not in k}
    kwargs |= {
        **overrides,
        "connection_class": pool.connection_class,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    if isinstance(pool, SentinelConnectionPool):
        kwargs["check_connection"] = pool.check_connection
        return pool.sentinel_manager.master_for(pool.service_name, **kwargs)
    return redis.Redis.from_pool(redis.ConnectionPool(**kwargs))


def _derive_cluster(client: redis.RedisCluster, overrides: dict[str, Any]) -> redis.RedisCluster:
    known = client.nodes_manager
    kwargs = {
        k: v
        for k, v in client.get_connection_kwargs().items()
        if k not in ("host", "port", "redis_connect_func") and "maint_notifications" not in k
    }
    # A client made of a rediss:// URL keeps the class, and no constructor takes that.
    if issubclass(kwargs.pop("connection_class", redis.Connection), redis.SSLConnection):
        kwargs["ssl"] = True
    # Nodes of its own: a node carries its connections, and a new client resets those of the
    # nodes that it starts from.
    nodes = [ClusterNode(node.host, node.port) for node in known.startup_nodes.values()]
    with translated():
        return redis.RedisCluster(
            startup_nodes=nodes,
            require_full_coverage=known._require_full_coverage,
            dynamic_startup_nodes=known._dynamic_startup_nodes,
            address_remap=known.address_remap,
            redis_connect_func=client.user_on_connect_func,
            **{**kwargs, **overrides},
        )


def routed(client: Any, key: str) -> dict[str, Any]:
    """Options that send a command to the node which keeps ``key``; none without a cluster.

    For commands whose keys redis-py does not know by itself: it would ask a node for them
    before each call, and not the one that keeps them.
    """
    if isinstance(client, redis.RedisCluster):
        return {"target_nodes": client.get_node_from_key(key)}
    return {}


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
