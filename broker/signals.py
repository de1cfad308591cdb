"""Which middleware listens to which signal: most override few of the forty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from dramatiq.middleware import Middleware

Listener: TypeAlias = tuple[Middleware, Callable[..., Any]]


class Signals:
    """The listeners of each signal, worked out once for a list of middleware. Thread-safe."""

    def __init__(self) -> None:
        # Replaced as a pair, never changed half: several threads emit at once.
        self._known: tuple[list[Middleware], dict[str, list[Listener]]] = ([], {})

    def listeners(self, signal: str, middleware: Sequence[Middleware]) -> list[Listener]:
        """The middleware that overrides ``signal``, in the order given, with its method."""
        known, table = self._known
        if known != middleware:
            table = {}
            self._known = (list(middleware), table)
        if signal not in table:
            table[signal] = [
                (each, getattr(each, signal)) for each in middleware if _overrides(each, signal)
            ]
        return table[signal]


def _overrides(middleware: Middleware, signal: str) -> bool:
    inherited = getattr(Middleware, signal, None)
    return signal in vars(middleware) or getattr(type(middleware), signal, None) is not inherited
