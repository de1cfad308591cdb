"""Ending a job while it runs: the server tells, the job's thread is interrupted."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import redis
from dramatiq.errors import BrokerConnectionError
from dramatiq.logging import get_logger
from dramatiq.threading import Interrupt, is_gevent_active, raise_thread_exception

from broker import clients, current
from broker.delivery import Delivery, Lease
from broker.errors import translated

P = ParamSpec("P")
R = TypeVar("R")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds between tries while the server is away
_STOP_S = 1.0


class JobCancelled(Interrupt):
    """Raised in a job that somebody has cancelled.

    As with Dramatiq's other interrupts a call into the system is not cut short, and a job
    may catch it to tidy up; what it raises or returns afterwards changes nothing for one
    that raises, and completes it if it returns.
    """


class RunningJobs:
    """Which thread runs the function of which delivery's actor. Thread-safe.

    An interrupt that came later could end Dramatiq's thread: while it handles what a job raised, it
    handles nothing else.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._interrupts: dict[Lease, Callable[[], None]] = {}

    def interruptible(self, function: Callable[P, R]) -> Callable[P, R]:
        """An actor's function, which :meth:`cancel` interrupts while a worker's job runs it."""

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            delivery = current.delivery()
            if delivery is None or not self._enter(delivery):
                return function(*args, **kwargs)
            try:
                return function(*args, **kwargs)
            finally:
                self.leave(delivery)

        return run

    def _enter(self, delivery: Delivery) -> bool:
        """The calling thread begins; False in a job whose actor calls another one's function.

        Raises:
          JobCancelled: it was cancelled before it began.
        """
        with self._lock:
            if delivery.lease in self._interrupts:
                return False
            if delivery.cancelled:
                raise JobCancelled
            self._interrupts[delivery.lease] = _interrupt_of_this_thread()
            return True

    def leave(self, delivery: Delivery) -> None:
        """The calling thread has ended; from here on no interrupt is raised for it. Idempotent."""
        try:
            with self._lock:
                self._interrupts.pop(delivery.lease, None)
        except JobCancelled:  # raised while this thread waited for the lock: too late
            with self._lock:
                self._interrupts.pop(delivery.lease, None)

    def cancel(self, delivery: Delivery) -> None:
        """Interrupt the job if it runs, else see to it that it does not begin."""
        with self._lock:
            if delivery.cancelled:
                return
            delivery.cancelled = True
            delivery.options["throws"] = JobCancelled  # Dramatiq then reports no failure
            interrupt = self._interrupts.get(delivery.lease)
            if interrupt is not None:
                interrupt()


def _interrupt_of_this_thread() -> Callable[[], None]:
    # Asked only where gevent may be: without it, Dramatiq's function looks through all of sys.path.
    if "gevent.monkey" in sys.modules and is_gevent_active():
        import gevent  # only there with dramatiq-gevent

        greenlet = gevent.getcurrent()
        return lambda: greenlet.kill(JobCancelled, block=False)
    thread_id = threading.get_ident()
    return lambda: raise_thread_exception(thread_id, JobCancelled)


class CancelListener:
    """Hears of cancelled jobs. One a worker process.

    What is published while the connection is down is not heard: ``on_gap`` is called after
    each time it was, to look for what the records say.
    """

    def __init__(
        self,
        client: Any,
        channel: str,
        *,
        on_cancel: Callable[[str], None],
        on_gap: Callable[[], None],
    ) -> None:
        self._client = client
        self._channel = channel
        self._on_cancel = on_cancel
        self._on_gap = on_gap
        self._logger = get_logger(__name__, type(self))
        self._stopping = threading.Event()
        self._subscription: Any = None
        self._thread = threading.Thread(target=self._run, name="headrace-cancel", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread, which takes a moment."""
        self._stopping.set()
        subscription = self._subscription
        if subscription is not None and subscription.connection is not None:
            subscription.connection.disconnect()  # its blocked read ends with an error
        self._thread.join(_STOP_S)

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._stopping.is_set():
            try:
                with translated():
                    self._listen()
            except (BrokerConnectionError, OSError, ValueError) as error:
                if self._stopping.is_set():
                    return
                self._logger.warning("Not listening for cancelled jobs, trying again: %s", error)
            except Exception:
                self._logger.exception("Listening for cancelled jobs failed, trying again.")
            self._stopping.wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _listen(self) -> None:
        client = clients.derive(self._client, socket_timeout=None)
        with client, client.pubsub(ignore_subscribe_messages=False) as subscription:
            subscription.subscribe(self._channel)
            self._subscription = subscription
            for message in subscription.listen():
                if self._stopping.is_set():
                    return
                if message["type"] == "subscribe":
                    self._on_gap()
                elif message["type"] == "message":
                    self._on_cancel(message["data"].decode("utf-8", "replace"))
        raise redis.ConnectionError("the subscription has ended")
