"""What a server must be before a worker runs against it."""

from __future__ import annotations

from typing import Any

import redis

from broker.errors import EvictionPolicyRefused, ServerTooOld, translated

_MINIMUM = {"redis": (7, 0), "valkey": (8, 0)}


def check(client: Any) -> None:
    """Raise unless the server can keep the promises.

    Raises:
      ServerTooOld: Redis before 7.0 or Valkey before 8.0.
      EvictionPolicyRefused: ``maxmemory-policy`` is not ``noeviction``.
      AuthenticationRefused: wrong credentials.
      ConnectionClosed: the server can't be reached now.
    """
    target = {"target_nodes": "random"} if isinstance(client, redis.RedisCluster) else {}
    with translated():
        info = client.info(**target)
    if isinstance(client, redis.RedisCluster) and "redis_version" not in info:
        info = next(iter(info.values()))
    name = "valkey" if "valkey_version" in info else "redis"
    version = str(info.get(f"{name}_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) < _MINIMUM[name]:
        wanted = ".".join(map(str, _MINIMUM[name]))
        raise ServerTooOld(f"{name}_version: {name} >= {wanted} is required, got {version!r}")
    policy = info.get("maxmemory_policy")
    if policy != "noeviction":
        raise EvictionPolicyRefused(
            f"maxmemory-policy: must be 'noeviction', got {policy!r}: it could evict queued jobs"
        )
