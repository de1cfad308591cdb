"""A real cluster on loopback: masters, replicas if wanted, and what an operator does to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from redis.cluster import ClusterNode

from broker.embedded import HOST, EmbeddedServerFailed, EmbeddedValkey
from tests.ports import free_port
from tests.servers import ServerKind, new_server
from tests.waiting import eventually

SLOTS = 16384
_TRIES = 3


class Cluster:
    """Some masters that share the slots evenly, each with as many replicas as wanted.

    ``directives`` makes each node's own part of the configuration.
    """

    def __init__(
        self,
        kind: ServerKind,
        folder: Path,
        *,
        masters: int = 3,
        replicas: int = 0,
        node_timeout_ms: int = 5000,
        appendonly: bool = False,
        directives: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self.kind = kind
        self._folder = folder
        self._node_timeout_ms = node_timeout_ms
        self._appendonly = appendonly
        self._directives = directives
        self._shape = (masters, replicas)
        self._running = ExitStack()
        self.nodes: list[EmbeddedValkey] = []
        """The masters, lowest slots first, then the replicas of the first, of the second, …"""
        self._bus: dict[int, int] = {}

    def __enter__(self) -> Self:
        masters, replicas = self._shape
        try:
            for _ in range(masters * (1 + replicas)):
                self._start_node()
            self._join(masters, replicas)
        except BaseException:
            self._running.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._running.close()

    def client(self, **options: Any) -> redis.RedisCluster:
        """A client as an application makes it."""
        nodes = [ClusterNode(HOST, node.port) for node in self.nodes]
        return redis.RedisCluster(startup_nodes=nodes, **options)

    def to(self, node: EmbeddedValkey) -> redis.Redis:
        """A client of one node alone."""
        return redis.Redis(host=HOST, port=node.port, protocol=2, socket_timeout=10)

    def owner(self, key: str) -> EmbeddedValkey:
        """The node that keeps the key, as the nodes themselves say now."""
        with self.client() as client:
            port = client.get_node_from_key(key).port
        return self._by_port(port)

    def replica_of(self, master: EmbeddedValkey) -> EmbeddedValkey:
        """The first replica that the master had when the cluster was made."""
        masters, replicas = self._shape
        return self.nodes[masters + self.nodes.index(master) * replicas]

    def id_of(self, node: EmbeddedValkey) -> str:
        """The node's name in the cluster."""
        with self.to(node) as client:
            name: bytes = client.execute_command("CLUSTER MYID")
            return name.decode()

    def migrate(
        self, key: str, target: EmbeddedValkey, halfway: Callable[[], object] = lambda: None
    ) -> None:
        """Move the key's slot to another master, key by key, as redis-cli does.

        ``halfway`` is called while one key is there and the others are still here.
        """
        source = self.owner(key)
        with self.to(source) as old, self.to(target) as new:
            slot = int(old.execute_command("CLUSTER KEYSLOT", key))
            old_id, new_id = self.id_of(source), self.id_of(target)
            new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", old_id)
            old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", new_id)
            count = 1
            while keys := old.execute_command("CLUSTER GETKEYSINSLOT", slot, count):
                old.execute_command("MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", *keys)
                if count == 1:
                    halfway()
                count = 100
            new.execute_command("CLUSTER SETSLOT", slot, "NODE", new_id)
            old.execute_command("CLUSTER SETSLOT", slot, "NODE", new_id)
        self._wait_until_agreed(slot, target)

    def migrate_at_once(self, key: str, target: EmbeddedValkey) -> None:
        """Move the key's slot to another master as Valkey 9 does, in one step at the end."""
        source = self.owner(key)
        with self.to(source) as old:
            slot = int(old.execute_command("CLUSTER KEYSLOT", key))
            move = ("SLOTSRANGE", slot, slot, "NODE", self.id_of(target))
            old.execute_command("CLUSTER", "MIGRATESLOTS", *move)
        self._wait_until_agreed(slot, target)

    def _by_port(self, port: int) -> EmbeddedValkey:
        return next(node for node in self.nodes if node.port == port)

    def _start_node(self) -> None:
        for attempt in range(_TRIES):
            bus = free_port()
            config = {
                "cluster-enabled": "yes",
                "cluster-node-timeout": str(self._node_timeout_ms),
                # Not the port and 10,000: that may be too high, or taken.
                "cluster-port": str(bus),
                # A part of the slots without a master does not stop the others.
                "cluster-require-full-coverage": "no",
                "cluster-replica-validity-factor": "0",
                "repl-diskless-sync-delay": "0",
                **self._directives(),
            }
            folder = self._folder / f"node-{len(self.nodes)}-{attempt}"
            node = new_server(self.kind, folder, appendonly=self._appendonly, config=config)
            try:
                self._running.enter_context(node)
            except EmbeddedServerFailed:
                if attempt == _TRIES - 1:
                    raise
            else:
                self.nodes.append(node)
                self._bus[node.port] = bus
                return

    def _join(self, masters: int, replicas: int) -> None:
        first, *others = self.nodes
        with self.to(first) as client:
            for number, node in enumerate(self.nodes):
                with self.to(node) as own:
                    own.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
            for node in others:
                client.execute_command("CLUSTER MEET", HOST, node.port, self._bus[node.port])
        bounds = [SLOTS * part // masters for part in range(masters + 1)]
        for node, low, high in zip(self.nodes, bounds, bounds[1:], strict=False):
            with self.to(node) as client:
                client.execute_command("CLUSTER ADDSLOTSRANGE", low, high - 1)
        if replicas:
            self._wait_until(lambda info: info["cluster_known_nodes"] == str(len(self.nodes)))
            for number, node in enumerate(self.nodes[masters:]):
                with self.to(node) as client:
                    master = self.nodes[number // replicas]
                    client.execute_command("CLUSTER REPLICATE", self.id_of(master))
        whole = {
            "cluster_state": "ok",
            "cluster_slots_assigned": str(SLOTS),
            "cluster_known_nodes": str(len(self.nodes)),
            "cluster_size": str(masters),
        }
        self._wait_until(lambda info: whole.items() <= info.items())
        for node in self.nodes[masters:]:
            with self.to(node) as client:
                eventually(
                    lambda client=client: client.info("replication").get("master_link_status"),  # type: ignore[misc]
                    lambda status: status == "up",
                    what="a replica that follows its master",
                )

    def _wait_until(self, holds: Any) -> None:
        for node in self.nodes:
            with self.to(node) as client:
                eventually(
                    lambda client=client: client.cluster("INFO"),  # type: ignore[misc]
                    holds,
                    what=f"agreement of node {node.port}",
                )

    def _wait_until_agreed(self, slot: int, target: EmbeddedValkey) -> None:
        for node in self.nodes:
            with self.to(node) as client:
                eventually(
                    lambda client=client: _port_of(client, slot),  # type: ignore[misc]
                    lambda port: port == target.port,
                    what=f"node {node.port} knowing the slot's new owner",
                )


def _port_of(client: redis.Redis, slot: int) -> int | None:
    ranges: list[Any] = client.execute_command("CLUSTER SLOTS")
    served = (int(master[1]) for low, high, master, *_ in ranges if low <= slot <= high)
    return next(served, None)
