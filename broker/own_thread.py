"""A thread that a worker process has beside Dramatiq's."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

from dramatiq.logging import get_logger


class OwnThread(ABC):
    """Runs from the worker's boot to its shutdown; started again when it dies alone."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._logger = get_logger(type(self).__module__, type(self))
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        name = f"headrace-{self._name}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def revive(self) -> None:
        """Start it again if it has died alone."""
        if self._thread is None or self._thread.is_alive() or self._stopping:
            return
        self._logger.critical("The %s's thread has died; it is started again.", self._name)
        self.start()

    @abstractmethod
    def _run(self) -> None: ...
