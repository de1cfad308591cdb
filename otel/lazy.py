"""Attributes that are put together only when somebody looks at them."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, Mapping
from typing import TypeAlias

Value: TypeAlias = str | int | float | bool


class Lazy(Mapping[str, Value]):
    """What ``make`` returns, which is called at the first look.

    Most spans are not sampled, and most samplers decide without looking.
    """

    __slots__ = ("_found", "_make")

    def __init__(self, make: Callable[[], Mapping[str, Value]]) -> None:
        self._make = make
        self._found: Mapping[str, Value] | None = None

    def _look(self) -> Mapping[str, Value]:
        if self._found is None:
            self._found = self._make()
        return self._found

    def __getitem__(self, name: str) -> Value:
        return self._look()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._look())

    def items(self) -> ItemsView[str, Value]:
        """Those of what was made: the SDK copies them one by one."""
        return self._look().items()

    def __len__(self) -> int:
        return len(self._look())
