"""What a running job may ask and say about itself."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from broker.delivery import Delivery, Lease
from broker.errors import HeadraceError, InvalidOption


class NoCurrentJob(HeadraceError, RuntimeError):
    """Asked for the current job outside of one."""


#: Note the progress of a delivery: queue, lease, message id, fraction, note.
Progress = Callable[[str, Lease, str, float, str], bool]


@dataclass(frozen=True, slots=True)
class CurrentJob:
    """The job that the calling thread or coroutine runs."""

    id: str
    queue: str
    actor: str
    #: The first run is 1; redeliveries after a crash do not count.
    attempt: int
    _lease: Lease = field(repr=False)
    _progress: Progress = field(repr=False)

    def progress(self, fraction: float, note: str = "") -> bool:
        """Note in the job's record how far it is, from 0 to 1; one round trip.

        Returns False if the lease is lost, so that the job may as well stop, or if no
        record is kept of it.

        Raises:
          InvalidOption: the fraction is outside of 0 to 1.
          BrokerConnectionError: it may or may not have been noted.
        """
        if not 0 <= fraction <= 1:
            raise InvalidOption("fraction", fraction, "must be from 0 to 1")
        return self._progress(self.queue, self._lease, self.id, float(fraction), note)


_current: ContextVar[tuple[Delivery, Progress] | None] = ContextVar(
    "headrace_current_job", default=None
)


def current_job() -> CurrentJob:
    """The job that is running here, in a thread of a worker or a coroutine of one.

    Raises:
      NoCurrentJob: none is.
    """
    found = _current.get()
    if found is None:
        raise NoCurrentJob("current_job: there is one only while a worker runs an actor")
    delivery, progress = found
    return CurrentJob(
        delivery.message_id,
        delivery.queue_name,
        delivery.actor_name,
        delivery.attempt,
        delivery.lease,
        progress,
    )


def delivery() -> Delivery | None:
    """The delivery that is run here, if one is."""
    found = _current.get()
    return None if found is None else found[0]


def running() -> bool:
    """Whether a job runs here."""
    return _current.get() is not None


def begin(delivery: Delivery, progress: Progress) -> None:
    """The calling thread runs this delivery from here on."""
    _current.set((delivery, progress))


def end() -> None:
    """The calling thread runs no delivery any more."""
    _current.set(None)
