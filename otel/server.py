"""The server of a broker, as attributes."""

from __future__ import annotations

from typing import TypeAlias

import redis

from broker import StreamsBroker
from otel import names

Attributes: TypeAlias = dict[str, str | int | float | bool]


def server_attributes(broker: StreamsBroker) -> Attributes:
    """Address and port of the server that the broker was given; none for Sentinel."""
    client = broker.client
    if isinstance(client, redis.RedisCluster):
        node = next(iter(client.nodes_manager.startup_nodes.values()))
        return {names.SERVER_ADDRESS: node.host, names.SERVER_PORT: node.port}
    where = client.connection_pool.connection_kwargs
    if "path" in where:  # a socket of the file system has no port
        return {names.SERVER_ADDRESS: where["path"]}
    if "host" in where or "port" in where:  # a URL may leave out either
        address, port = where.get("host", "localhost"), int(where.get("port", 6379))
        return {names.SERVER_ADDRESS: address, names.SERVER_PORT: port}
    return {}
