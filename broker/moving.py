"""Moving a dead letter from one queue's to another's, which may lie on another node."""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

from broker.errors import translated
from broker.keys import QueueKeys
from broker.scripts import Argument


class Run(Protocol):
    """Runs a script by its name."""

    def __call__(self, name: str, keys: tuple[str, ...], *args: Argument) -> Any: ...


def move_letter(
    run: Run, client: Any, source: QueueKeys, target: QueueKeys, id: bytes, belongs_to: str
) -> bytes | None:
    """Move it; returns its new id, None when it is not there (any more).

    The target has it before the source drops it, and takes it once: interrupted, it is run again.
    ``belongs_to`` is the queue in which its message runs, empty for the target.
    Raises Dramatiq's connection errors.
    """
    with translated():
        letter = client.hget(source.dead_messages, id)
        died_at = client.zscore(source.dead, id)
    if letter is None or died_at is None:
        return None
    there = (target.dead, target.dead_messages)
    moved: bytes = run("adopt", there, id, int(died_at), belongs_to, letter)
    digest = hashlib.sha1(letter, usedforsecurity=False).hexdigest()
    run("drop_letter", (source.dead, source.dead_messages), id, digest)
    return moved
