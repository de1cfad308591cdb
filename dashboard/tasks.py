"""Long actions: a redrive or a deletion of many dead letters, in the background and in steps."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from dramatiq.errors import BrokerConnectionError
from dramatiq.logging import get_logger

from broker.errors import HeadraceError, InvalidOption
from dashboard.audit import note

#: Of those that have ended, as many are shown.
_KEPT: Final = 20
_AT_ONCE: Final = 4


@dataclass
class Task:
    """One of them. Read by pages while its thread changes it."""

    verb: str
    queue: str
    about: dict[str, object]
    user: str
    address: str
    #: Letters that it is about, as counted when it began: more may have died since.
    total: int
    id: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    began_ms: float = field(default_factory=lambda: time.time() * 1000)
    done: int = 0
    #: running, done, stopped or failed.
    state: str = "running"
    error: str = ""
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def share(self) -> float:
        """From 0 to 1."""
        if self.state == "done":
            return 1.0
        return min(1.0, self.done / self.total) if self.total else 0.0


class Tasks:
    """Runs them, each in a thread. One that a restart cuts off is begun anew: it does the rest."""

    def __init__(self) -> None:
        self._logger = get_logger(__name__, type(self))
        self._lock = threading.Lock()
        self._tasks: list[Task] = []

    def of(self, queue: str) -> list[Task]:
        """Those of a queue, the newest first."""
        with self._lock:
            return [task for task in reversed(self._tasks) if task.queue == queue]

    def begin(self, task: Task, steps: Iterator[int]) -> None:
        """Go through the steps; each says how many letters it was about.

        Raises:
          InvalidOption: so many run that this one has to wait for their end.
        """
        with self._lock:
            running = [each for each in self._tasks if each.state == "running"]
            if len(running) >= _AT_ONCE:
                raise InvalidOption("task", task.verb, f"must wait: {_AT_ONCE} others run")
            ended = [each for each in self._tasks if each.state != "running"]
            self._tasks = [*ended[-_KEPT:], *running, task]
        threading.Thread(
            target=self._run, args=(task, steps), name=f"headrace-{task.verb}", daemon=True
        ).start()

    def stop(self, id: str) -> Task | None:
        """End a task after its present step; what it did stays done. None: there is none."""
        with self._lock:
            found = next((each for each in self._tasks if each.id == id), None)
        if found is not None:
            found.stopping.set()
        return found

    def _run(self, task: Task, steps: Iterator[int]) -> None:
        state = "done"
        try:
            for count in steps:
                task.done += count
                if task.stopping.is_set():
                    state = "stopped"
                    break
        except (HeadraceError, BrokerConnectionError) as error:
            state, task.error = "failed", f"{type(error).__name__}: {error}"
        except Exception as error:  # its page tells it; nobody else would
            self._logger.exception("Task failed: %s of %s", task.verb, task.queue)
            state, task.error = "failed", type(error).__name__
        finally:
            task.state = state
            note(
                action=task.verb,
                user=task.user,
                address=task.address,
                outcome=f"ended: {state}",
                queue=task.queue,
                count=task.done,
                task=task.id,
                **task.about,
            )
