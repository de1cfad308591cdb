"""What is in the queues, looked at once an interval by one process of all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias
from uuid import uuid4

from dramatiq.errors import BrokerConnectionError
from dramatiq.logging import get_logger
from opentelemetry.metrics import CallbackOptions, Meter, Observation

from broker import StreamsBroker
from broker.event_source import SourceInfo
from broker.heartbeat import Heartbeat
from broker.operator_commands import QueueInfo
from broker.schedule import ScheduleInfo
from broker.server import ServerMemory
from otel import names
from otel.server import server_attributes

#: Queues beyond these are not reported: a name that somebody makes up each time must not
#: become a series each time.
MOST_QUEUES: Final = 1_000
#: The same for schedules.
MOST_SCHEDULES: Final = 200
#: The same for streams of events.
MOST_SOURCES: Final = 200
#: Intervals that a process leads, so that one look may fail without another process taking over.
_LEADS: Final = 2.5
#: Intervals after which a process that was not heard of is stuck.
_SILENT: Final = 4

Callback: TypeAlias = Callable[[CallbackOptions], Iterable[Observation]]


@dataclass(frozen=True, slots=True)
class Look:
    """Everything that was seen at one moment."""

    queues: tuple[QueueInfo, ...] = ()
    #: Consumers that are alive, by queue.
    consumers: tuple[int, ...] = ()
    servers: tuple[ServerMemory, ...] = ()
    schedules: tuple[ScheduleInfo, ...] = ()
    sources: tuple[SourceInfo, ...] = ()


class QueueGauges:
    """Reports the queues while this process leads, and nothing at any other time.

    The first collection starts its thread, so a process that exports no metrics has none.
    Collections never wait for Redis. When the process that leads dies, another one takes
    over within 2.5 intervals.
    """

    def __init__(
        self,
        broker: StreamsBroker,
        meter: Meter,
        *,
        interval_ms: int,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        self._broker = broker
        self._heartbeat = heartbeat
        self._interval_ms = interval_ms
        self._name = str(uuid4())
        self._look = Look()
        self._seen_at = 0.0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._logger = get_logger(__name__, type(self))
        for name, unit, text, read in (
            (names.QUEUE_MESSAGES, "{message}", "Messages by state.", _messages),
            (names.QUEUE_OLDEST_AGE, "s", "Age of the oldest message that waits.", _ages),
            (names.QUEUE_CONSUMERS, "{consumer}", "Live consumers.", _consumers),
            (names.QUEUE_PAUSED, "{queue}", "1 while the queue is paused.", _paused),
            (names.SCHEDULE_OVERDUE, "s", "Time since a fire was due that is not made.", _overdue),
            (names.SCHEDULE_MISSED, "{fire}", "Fires that nobody made in time.", _missed),
            (names.INTAKE_LAG, "{event}", "Events that no worker was given yet.", _lag),
            (names.INTAKE_AGE, "s", "Age of the oldest of them.", _waiting),
            (names.SERVER_MEMORY_USED, "By", "Memory the server uses.", _used),
            (names.SERVER_MEMORY_LIMIT, "By", "Its limit; 0 for none.", _limit),
            (names.SERVER_EVICTS, "{server}", "1 if its policy may drop queued jobs.", _evicts),
        ):
            meter.create_observable_gauge(name, [self._callback(read)], unit=unit, description=text)

    def stop(self) -> None:
        """Look no more, until :meth:`go_on`."""
        self._stopped.set()

    def go_on(self) -> None:
        """Look again, from the next collection on."""
        self._stopped.clear()

    def _callback(self, read: Callable[[StreamsBroker, Look], Iterator[Observation]]) -> Callback:
        def observe(options: CallbackOptions) -> Iterable[Observation]:
            self.start()
            return list(read(self._broker, self._current()))

        return observe

    def _current(self) -> Look:
        # What is old is not reported: the series ends, instead of showing what is no longer so.
        old = time.monotonic() - self._seen_at > self._interval_ms / 1000 * _LEADS
        return Look() if old else self._look

    def start(self) -> None:
        """Look from now on, not from the first collection."""
        with self._lock:
            if self._stopped.is_set():
                return
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, name="headrace-gauges", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            begin = time.monotonic()
            try:
                self._look = self._take()
                self._seen_at = begin
                if self._heartbeat is not None:
                    self._heartbeat.beat(self._interval_ms * _SILENT)
            except BrokerConnectionError as error:
                self._logger.warning("Looking at the queues failed, trying again: %s", error)
            except Exception:
                self._logger.exception("Looking at the queues failed, trying again.")
            self._stopped.wait(max(0.0, begin + self._interval_ms / 1000 - time.monotonic()))

    def _take(self) -> Look:
        broker, lasts_ms = self._broker, int(self._interval_ms * _LEADS)
        if not broker.commands.lead("gauges", self._name, lasts_ms):
            return Look()
        inspector = broker.inspector
        queues = inspector.queues()[:MOST_QUEUES]
        return Look(
            tuple(inspector.queue(queue) for queue in queues),
            tuple(inspector.live_consumers(queue, broker.heartbeat_timeout) for queue in queues),
            tuple(inspector.servers()),
            tuple(inspector.schedules.list()[:MOST_SCHEDULES]),
            tuple(inspector.intake.sources()[:MOST_SOURCES]),
        )


def _queue(info: QueueInfo) -> dict[str, str]:
    return {names.SYSTEM: names.REDIS, names.DESTINATION: info.name}


def _messages(broker: StreamsBroker, look: Look) -> Iterator[Observation]:
    for info in look.queues:
        states = {
            "ready": info.ready,
            "scheduled": info.scheduled - info.due,
            "due": info.due,
            "in_flight": info.in_flight,
            "dead": info.dead,
        }
        for state, count in states.items():
            yield Observation(count, {**_queue(info), names.STATE: state})


def _ages(broker: StreamsBroker, look: Look) -> Iterator[Observation]:
    for info in look.queues:
        yield Observation((info.oldest_age_ms or 0) / 1000, _queue(info))


def _consumers(broker: StreamsBroker, look: Look) -> Iterator[Observation]:
    for info, count in zip(look.queues, look.consumers, strict=True):
        yield Observation(count, _queue(info))


def _paused(broker: StreamsBroker, look: Look) -> Iterator[Observation]:
    for info in look.queues:
        yield Observation(int(info.paused), _queue(info))


def _overdue(broker: StreamsBroker, look: Look) -> Iterator[Observation]:
    now_ms = time.time() * 1000
    for info in look.schedules:
        due_ms = now_ms if info.next_fire_ms is None or info.paused else info.next_fire_ms
        yield Observation(max(0.0, now_ms - due_ms) / 1000, _schedule(info))


def _missed(broker: StreamsBroker, look: Look) -> Iterator[Observation]:
    for info in look.schedules:
        yield Observation(info.missed, _schedule(info))


def _lag(broker: StreamsBroker, look: Look) -> Iterator[Observation]:
    for info in look.sources:
        if info.lag is not None:
            yield Observation(info.lag, _source(info))


def _waiting(broker: StreamsBroker, look: Look) -> Iterator[Observation]:
    for info in look.sources:
        yield Observation((info.oldest_age_ms or 0) / 1000, _source(info))


def _source(info: SourceInfo) -> dict[str, str]:
    return {names.DESTINATION: info.source.stream, names.CONSUMER_GROUP: info.source.group}


def _schedule(info: ScheduleInfo) -> dict[str, str]:
    return {names.SCHEDULE: info.schedule.name, names.DESTINATION: info.schedule.queue}


def _used(broker: StreamsBroker, look: Look) -> Iterator[Observation]:
    for server in look.servers:
        yield Observation(server.used, _server(broker, server))


def _limit(broker: StreamsBroker, look: Look) -> Iterator[Observation]:
    for server in look.servers:
        yield Observation(server.limit, _server(broker, server))


def _evicts(broker: StreamsBroker, look: Look) -> Iterator[Observation]:
    for server in look.servers:
        yield Observation(int(server.evicts), _server(broker, server))


def _server(broker: StreamsBroker, server: ServerMemory) -> dict[str, str | int | float | bool]:
    if not server.address:
        return {names.SYSTEM: names.REDIS, **server_attributes(broker)}
    host, _, port = server.address.rpartition(":")
    return {names.SYSTEM: names.REDIS, names.SERVER_ADDRESS: host, names.SERVER_PORT: int(port)}
