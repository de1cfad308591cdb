"""Attributes of metrics: hashed once, and used again for every measurement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final


class Labels(dict[str, str | bool]):
    """A mapping that is never changed after it was made, so it can be a key."""

    __slots__ = ("_hash",)

    def __init__(self, attributes: Mapping[str, str | bool]) -> None:
        super().__init__(attributes)
        self._hash = hash(frozenset(self.items()))

    def __hash__(self) -> int:  # type: ignore[override]  # a dict's is None
        return self._hash


#: For what is told apart no more.
OVERFLOW: Final = Labels({"otel.metric.overflow": True})
