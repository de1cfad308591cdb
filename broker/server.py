"""What a server must be before a worker runs against it, and how full it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from dramatiq.errors import BrokerConnectionError, ConnectionClosed

from broker.errors import (
    ClusterClientRequired,
    EvictionPolicyRefused,
    ServerTooOld,
    translated,
)

_MINIMUM = {"redis": (7, 0), "valkey": (8, 0)}


def check(client: Any) -> None:
    """Raise unless the server can keep the promises; of a cluster, every node that answers.

    Raises:
      ServerTooOld: Redis before 7.0 or Valkey before 8.0.
      EvictionPolicyRefused: ``maxmemory-policy`` is not ``noeviction``.
      ClusterClientRequired: one of several nodes of a cluster, and a client that knows one.
      AuthenticationRefused: wrong credentials.
      ConnectionClosed: the server can't be reached now.
    """
    if isinstance(client, redis.RedisCluster):
        _check_nodes(client)
        return
    with translated():
        info = client.info()
        _check_info(info)
        if info.get("redis_mode", info.get("server_mode")) == "cluster":
            size = int(client.cluster("INFO")["cluster_size"])
            if size > 1:
                raise ClusterClientRequired(f"one of {size} masters")


def _check_nodes(client: redis.RedisCluster) -> None:
    """Check the masters, and the replicas, since each may be a master by tomorrow."""
    away: ConnectionClosed | None = None
    answered = False
    for node in client.get_nodes():
        try:
            with translated():
                info = client.info(target_nodes=node)
        except ConnectionClosed as error:
            away = error
        else:
            answered = True
            _check_info(info)
    # Without some of its nodes a cluster serves the queues of the others.
    if away is not None and not answered:
        raise away


def _check_info(info: Mapping[str, Any]) -> None:
    name = _name(info)
    version = str(info.get(f"{name}_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) < _MINIMUM[name]:
        wanted = ".".join(map(str, _MINIMUM[name]))
        raise ServerTooOld(f"{name}_version: {name} >= {wanted} is required, got {version!r}")
    policy = info.get("maxmemory_policy")
    if policy != "noeviction":
        raise EvictionPolicyRefused(
            f"maxmemory-policy: must be 'noeviction', got {policy!r}: it could evict queued jobs"
        )


@dataclass(frozen=True, slots=True)
class ServerMemory:
    """One server's memory, in bytes. ``limit`` is 0 for none."""

    #: ``host:port`` of a cluster's node; empty for a server that stands alone.
    address: str
    used: int
    limit: int
    #: It may drop queued jobs when the limit is reached: its policy is not ``noeviction``.
    evicts: bool


def memory(client: Any) -> list[ServerMemory]:
    """The memory of the server; of a cluster, of each node that answers.

    Raises:
      ConnectionClosed: the server can't be reached now.
    """
    if not isinstance(client, redis.RedisCluster):
        with translated():
            return [_memory("", client.info("memory"))]
    found = []
    for node in client.get_nodes():
        try:
            with translated():
                info = client.info("memory", target_nodes=node)
        except BrokerConnectionError:
            continue  # its absence from the answer says it
        found.append(_memory(node.name, info))
    return found


def _memory(address: str, info: Mapping[str, Any]) -> ServerMemory:
    return ServerMemory(
        address,
        used=int(info["used_memory"]),
        limit=int(info.get("maxmemory", 0)),
        evicts=info.get("maxmemory_policy") != "noeviction",
    )


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What one server says of itself."""

    #: redis or valkey.
    name: str
    version: str
    #: master or slave, in the server's own word.
    role: str
    #: It keeps an append-only file.
    appends: bool
    #: Its last write to disk did not fail.
    writes_ok: bool
    uptime_s: int
    clients: int
    commands_per_second: int
    memory: ServerMemory


def facts(client: Any) -> list[ServerFacts]:
    """What the server says of itself; of a cluster, each master that answers.

    Raises:
      ConnectionClosed: the server can't be reached now.
      AuthenticationRefused: this user may not ask.
    """
    with translated():
        if isinstance(client, redis.RedisCluster):
            return [
                _facts(node.name, client.info(target_nodes=node)) for node in client.get_primaries()
            ]
        return [_facts("", client.info())]


def time_ms(client: Any) -> int:
    """The server's clock, unix ms; of a cluster, that of some node. Raises as :func:`facts`."""
    with translated():
        return unix_ms(client.time())


def unix_ms(time: Sequence[Any]) -> int:
    """What TIME replies, in one number."""
    seconds, micros = time
    return int(seconds) * 1_000 + int(micros) // 1_000


def _facts(address: str, info: Mapping[str, Any]) -> ServerFacts:
    name = _name(info)
    states = [info.get(f"{what}_status") for what in ("aof_last_write", "rdb_last_bgsave")]
    return ServerFacts(
        name,
        version=str(info.get(f"{name}_version", "0")),
        role=str(info.get("role")),
        appends=bool(info.get("aof_enabled")),
        writes_ok="err" not in states,
        uptime_s=int(info.get("uptime_in_seconds", 0)),
        clients=int(info.get("connected_clients", 0)),
        commands_per_second=int(info.get("instantaneous_ops_per_sec", 0)),
        memory=_memory(address, info),
    )


def _name(info: Mapping[str, Any]) -> str:
    return "valkey" if "valkey_version" in info else "redis"
