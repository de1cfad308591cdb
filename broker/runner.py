"""Runs scripts on a client: the base of the classes that have a typed method a script."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from broker.direct import direct
from broker.errors import translated
from broker.keys import QueueKeys, queues_key
from broker.permission import PermittedScripts
from broker.scripts import Argument, Client


class Runner:
    """A client, the keys of a namespace's queues, and the scripts."""

    def __init__(
        self, client: Client, namespace: str, max_priority: int, *, repeat: bool = True
    ) -> None:
        """``repeat``: a command whose reply was lost is sent again, as the client is set up.

        Not for a worker's: a repeated fetch strands what the first one took.
        """
        self.client: Any = client  # redis-py has no type for both of its clients
        self._scripts = PermittedScripts(direct(client, repeat=repeat))
        self.namespace = namespace
        self._max_priority = max_priority
        self.keys = lru_cache(maxsize=None)(self._keys)

    def _keys(self, queue: str) -> QueueKeys:
        return QueueKeys(self.namespace, queue, self._max_priority)

    def _run(self, name: str, keys: Sequence[str], *args: Argument) -> Any:
        with translated():
            return self._scripts.run(name, keys, args)

    def register(self, queue: str) -> None:
        """Note the queue's name, so that operators find it."""
        with translated():
            self.client.execute_command("SADD", queues_key(self.namespace), queue)
