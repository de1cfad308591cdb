"""The metrics of sends, runs and settlements; ``docs/telemetry.md`` has the table."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final

from dramatiq import Broker, Message, MessageProxy, Worker
from dramatiq.middleware import Middleware
from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from broker import StreamsBroker
from broker.delivery import Delivery
from broker.outcome import Retry, Settled
from broker.settlement import Settlement
from otel import names
from otel.ending import Ending, error_type
from otel.gauges import QueueGauges
from otel.histogram import Histogram
from otel.labels import Labels
from otel.tally import Count, Tally
from otel.utilization import Utilization
from otel.wait import waited_s

#: The boundaries that the conventions advise, in seconds.
BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
#: For what may take as long as a job, and wait as long as a queue does.
BUCKETS_TO_AN_HOUR: Final = (*BUCKETS, 30, 60, 120, 300, 600, 1_200, 1_800, 3_600)
_BATCHES: Final = (1, 2, 5, 10, 20, 50, 100, 200)


class _Thread(threading.local):
    """When a thread began the send that it is in, by the monotonic clock."""

    send_at: float | None = None


@dataclass(frozen=True, slots=True)
class _Runs:
    """Where the runs of one actor are counted, so that no run has to look for that."""

    waited: Callable[[float], None]
    #: In seconds; of those that ended well.
    took: Callable[[float], None]
    completed: Count


class Metrics(Middleware):
    """Counts and measures. Its place is near the end of the list, right above the run's ending.

    So the time of a run is that of the job alone.

    Args:
      gauge_interval_ms: between two looks at the queues, whichever process takes them.
    """

    def __init__(
        self, *, gauge_interval_ms: int = 15_000, meter_provider: MeterProvider | None = None
    ) -> None:
        self._gauge_interval_ms = gauge_interval_ms
        self._thread = _Thread()
        self._utilization = Utilization()
        self._meter = meter = metrics.get_meter(
            names.SCOPE, meter_provider=meter_provider, schema_url=names.SCHEMA_URL
        )
        message = "{message}"
        self._sent = Tally(
            meter, names.SENT_MESSAGES, unit=message, description="Messages enqueued."
        )
        self._consumed = Tally(
            meter, names.CONSUMED_MESSAGES, unit=message, description="Messages handed to a job."
        )
        self._redelivered = Tally(
            meter,
            names.REDELIVERIES,
            unit=message,
            description="Runs of messages whose delivery before ended unsettled.",
        )
        self._retried = Tally(
            meter, names.RETRIES, unit=message, description="Messages put off for another attempt."
        )
        self._parked = Tally(
            meter, names.PARKED, unit=message, description="Messages that a limiter put back."
        )
        self._stale = Tally(
            meter,
            names.SETTLE_STALE,
            unit=message,
            description="Settlements refused: the lease was lost.",
        )
        self._operation_duration = meter.create_histogram(
            names.OPERATION_DURATION,
            unit="s",
            description="Time of a send or of a group of settlements.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        self._process_duration = meter.create_histogram(
            names.PROCESS_DURATION,
            unit="s",
            description="Time of a run.",
            explicit_bucket_boundaries_advisory=BUCKETS_TO_AN_HOUR,
        )
        self._wait_duration = meter.create_histogram(
            names.WAIT_DURATION,
            unit="s",
            description="Time that a message was ready and not running.",
            explicit_bucket_boundaries_advisory=BUCKETS_TO_AN_HOUR,
        )
        self._batch_size = meter.create_histogram(
            names.SETTLE_BATCH_SIZE,
            unit=message,
            description="Settlements written at once.",
            explicit_bucket_boundaries_advisory=_BATCHES,
        )
        self._runs = lru_cache(maxsize=1_000)(self._runs_of)
        self._gauges: QueueGauges | None = None

    # -- Sends ------------------------------------------------------------------------

    def before_send(
        self, broker: Broker, messages: Sequence[Message[Any]], delay: int | None
    ) -> None:
        """The clock of a send starts."""
        self._thread.send_at = time.perf_counter()

    def after_send(
        self,
        broker: Broker,
        messages: Sequence[Message[Any]],
        delay: int | None,
        *,
        sent: Sequence[Message[Any]] | None = None,
        exception: BaseException | None = None,
    ) -> None:
        """The messages are sent, or not."""
        begin, self._thread.send_at = self._thread.send_at, None
        if begin is None:
            return
        error = _error(exception)
        queues = {message.queue_name for message in messages}
        one = queues.pop() if len(queues) == 1 else None  # a flow's steps may have many
        attributes = _attributes("send", one, None, error)
        self._operation_duration.record(time.perf_counter() - begin, attributes)
        # Of a fire that another scheduler has made nothing is sent.
        counted = Counter(each.queue_name for each in (messages if sent is None else sent))
        for queue, count in counted.items():
            self._sent.add(_attributes("send", queue, None, error), count=count)

    # -- Runs -------------------------------------------------------------------------

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        """The queues may be looked at, and the threads are known."""
        self._utilization.threads = worker.worker_threads
        if self._gauges is not None:
            self._gauges.go_on()
        elif isinstance(broker, StreamsBroker):
            self._gauges = QueueGauges(broker, self._meter, interval_ms=self._gauge_interval_ms)
            self._meter.create_observable_gauge(
                names.WORKER_UTILIZATION,
                [self._observe_utilization],
                unit="1",
                description="Share of the time that the worker's threads ran jobs.",
            )
            self._meter.create_observable_gauge(
                names.WORKER_THREADS,
                [self._observe_threads],
                unit="1",
                description="Threads that run jobs.",
            )

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """No more looks; another process takes over."""
        if self._gauges is not None:
            self._gauges.stop()

    def _observe_utilization(self, options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(self._utilization.share())]

    def _observe_threads(self, options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(self._utilization.threads)]

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        """The job is about to run."""
        if isinstance(message, Delivery):
            queue, actor = message.queue_name, message.actor_name
            self._runs(queue, actor).waited(waited_s(message))
            if message.lease.count > 1:
                self._redelivered.add(_queue_and_actor(queue, actor))
        self._utilization.began()

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """The job has succeeded or failed, or a middleware let it go no further."""
        seconds = self._utilization.ended()
        if exception is not None or seconds is None:
            self._end(message, Ending.of(message, exception), exception, seconds)
            return
        runs = self._runs(message.queue_name, message.actor_name)
        runs.took(seconds)
        runs.completed.add()

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        """The job was not run."""
        self._utilization.ended()
        self._end(message, Ending.of_skipped(message), None, None)

    def _end(
        self,
        message: MessageProxy,
        ending: Ending,
        exception: BaseException | None,
        seconds: float | None,
    ) -> None:
        queue, actor = message.queue_name, message.actor_name
        error = _error(exception) if ending is Ending.FAILED else None
        if seconds is not None:
            self._process_duration.record(seconds, _attributes("process", queue, actor, error))
        self._consumed.add(_consumed(queue, actor, ending, error))
        if ending is Ending.PARKED:
            self._parked.add(_queue_and_actor(queue, actor))

    def _runs_of(self, queue: str, actor: str) -> _Runs:
        return _Runs(
            _recorder(self._wait_duration, _queue_and_actor(queue, actor)),
            _recorder(self._process_duration, _attributes("process", queue, actor, None)),
            self._consumed.of(_consumed(queue, actor, Ending.COMPLETED, None)),
        )

    # -- Settlements ------------------------------------------------------------------

    def after_settle(
        self,
        broker: Broker,
        queue: str,
        settlements: Sequence[Settlement],
        replies: Sequence[Settled],
        seconds: float,
    ) -> None:
        """A group of deliveries has ended."""
        attributes = _attributes("settle", queue, None, None)
        self._operation_duration.record(seconds, attributes)
        self._batch_size.record(len(settlements), attributes)
        for settlement, reply in zip(settlements, replies, strict=True):
            if reply is Settled.STALE:
                self._stale.add(attributes)
            elif reply is Settled.OK and isinstance(settlement.outcome, Retry):
                self._retried.add(attributes)


def _recorder(histogram: metrics.Histogram, labels: Labels) -> Callable[[float], None]:
    """What counts a value with these attributes, in no more steps than the histogram needs."""
    # Until there is an SDK the API gives out what stands for its instruments.
    real = getattr(histogram, "_real_instrument", None) or histogram
    if isinstance(real, Histogram):
        return real.of(labels).record
    return partial(histogram.record, attributes=labels)


def _error(exception: BaseException | None) -> str | None:
    return None if exception is None else error_type(exception)


@lru_cache(maxsize=1_000)
def _queue_and_actor(queue: str, actor: str) -> Labels:
    return Labels({names.SYSTEM: names.REDIS, names.DESTINATION: queue, names.ACTOR: actor})


@lru_cache(maxsize=1_000)
def _attributes(operation: str, queue: str | None, actor: str | None, error: str | None) -> Labels:
    found = {names.SYSTEM: names.REDIS, names.OPERATION_NAME: operation}
    if queue is not None:
        found[names.DESTINATION] = queue
    if actor is not None:
        found[names.ACTOR] = actor
    if error is not None:
        found[names.ERROR_TYPE] = error
    return Labels(found)


@lru_cache(maxsize=1_000)
def _consumed(queue: str, actor: str, ending: Ending, error: str | None) -> Labels:
    return Labels({**_attributes("process", queue, actor, error), names.OUTCOME: ending.value})
