"""`HEADRACE_MODE=inline`: jobs run in the process that sends them, and no server is asked."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from dramatiq.asyncio import EventLoopThread, get_event_loop_thread, set_event_loop_thread
from dramatiq.broker import Consumer
from dramatiq.errors import ActorNotFound, RateLimitExceeded
from dramatiq.errors import Retry as RetryAsked
from dramatiq.message import Message
from dramatiq.middleware import AsyncIO, SkipMessage

from broker import entry
from broker.broker import StreamsBroker
from broker.clock import MovableClock
from broker.commands import Commands
from broker.delivery import Delivery, Lease
from broker.errors import NotInline
from broker.inline_producer import Dispatcher, InlineProducer, Waiting
from broker.limit_commands import Start, Turn
from broker.outcome import Abandon, Bury, Outcome, Park, Release, Retry

#: The caller waits for its retries; none of these waits is longer, in ms.
LONGEST_WAIT_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that failed for good."""

    message: Message[Any]
    reason: str
    error: str


class _Commands(Commands):
    """What jobs and their middleware ask of a server while they run."""

    def start(self, *args: Any, **kwargs: Any) -> Start:
        """Every job may begin: limits are over all workers, and there are none."""
        return Start(Turn.STARTED, time.time_ns() // 1_000, 0, None)

    def hold(self, queue: str, key: str, delay_ms: int) -> int:
        return time.time_ns() // 1_000_000 + delay_ms

    def progress(self, *args: Any, **kwargs: Any) -> bool:
        return False


class InlineBroker(StreamsBroker):
    """As StreamsBroker, but ``send()`` runs the job before it returns; made to fall back to.

    The job passes the same middleware: validation, retries, time of the run, logs, spans. Its
    arguments are encoded and decoded on the way, as in a worker. What it sends runs after it. A
    job that fails for good is logged and does not raise in the caller, who would not have seen
    it either.

    Otherwise than with workers: the waits before retries are a second at the most, and the
    caller waits. What has a delay runs after it on a thread of this process, and is lost when
    that ends first. Limits over all workers, records, events, flows and schedules need a server.
    """

    def __init__(self, *, unknown_actor_grace: int = 1, **options: Any) -> None:
        # No later deploy reaches this process, so nobody waits for one.
        super().__init__(unknown_actor_grace=unknown_actor_grace, **options)
        self.commands = _Commands(self.client, self.namespace, self.max_priority)
        self.clock = MovableClock()
        #: The jobs that failed for good, latest last; a thousand at the most.
        self.failed: deque[Ended] = deque(maxlen=1_000)
        self.producer: InlineProducer = InlineProducer(
            self, self._options, self.rules, self.clock, _AtOnce(self)
        )
        self._lock_here = threading.Lock()
        self._count = 0

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        """
        Raises:
          NotInline: workers need a server.
        """
        raise NotInline("a worker")

    def flush(self, queue_name: str) -> None:
        """
        Raises:
          NotInline: the queues of a server, which this process may know, are none of its own.
        """
        raise NotInline("flush")

    def flush_all(self) -> None:
        """As :meth:`flush`, also where no queue is declared."""
        raise NotInline("flush_all")

    def join(self, queue_name: str, *, interval: int = 100, timeout: int | None = None) -> None:
        """
        Raises:
          NotInline: what is sent has run when ``send()`` returns.
        """
        raise NotInline("join")

    @contextmanager
    def dispatched_by(self, dispatcher: Dispatcher) -> Iterator[None]:
        """Let somebody else decide when what is sent runs; for tests."""
        before, self.producer.dispatcher = self.producer.dispatcher, dispatcher
        try:
            yield
        finally:
            self.producer.dispatcher = before

    # -- Running ----------------------------------------------------------------------

    def run(self, waiting: Waiting) -> Waiting | None:
        """Run a message once; returns its successor when it is to run again.

        Never raises what the job raised.
        """
        self._start_loop()
        message = self.decoded(waiting)
        delivery = Delivery(message, self._lease(waiting))
        held = self.worker.in_flight(delivery.queue_name)
        held.keep(delivery)  # Retries enqueues it: a retry of what is held
        try:
            self._process(delivery)
            failed = delivery.failed
            signal = "nack" if failed else "ack"
            self.emit_before(signal, delivery)
            outcome = self._endings.outcome(delivery, failed=failed)
            self.emit_after(signal, delivery)
        finally:
            held.remove(delivery)
            delivery.clear_exception()
        return self._settled(waiting, message, outcome)

    def _process(self, delivery: Delivery) -> None:
        """As Dramatiq's worker does."""
        actor = None
        if delivery.actor_name not in self.actors:  # as its consumer does: no hook is called
            delivery.stuff_exception(ActorNotFound(delivery.actor_name))
            delivery.fail()
            return
        try:
            self.emit_before("process_message", delivery)
            result = None
            if not delivery.failed:
                actor = self.get_actor(delivery.actor_name)
                result = actor(*delivery.args, **delivery.kwargs)
            self.emit_after("process_message", delivery, result=result)
        except SkipMessage as error:
            if delivery.failed:
                delivery.stuff_exception(error)
            self.logger.warning("Message %s was skipped.", delivery)
            self.emit_after("skip_message", delivery)
        except BaseException as error:
            delivery.stuff_exception(error)
            throws = delivery.options.get("throws") or (actor and actor.options.get("throws"))
            expected = isinstance(error, RateLimitExceeded | RetryAsked)
            if not expected and not (throws and isinstance(error, throws)):
                self.logger.error(
                    "Failed to process message %s with unhandled exception.",
                    delivery,
                    exc_info=not delivery.sealed,
                )
            self.emit_after("process_message", delivery, exception=error)
            if not isinstance(error, Exception):  # the caller's own interrupts
                raise

    def _settled(self, waiting: Waiting, message: Message[Any], outcome: Outcome) -> Waiting | None:
        now_ms = self.clock.now_ms()
        match outcome:
            case Retry(delay_ms, level, fields):
                return Waiting(waiting.queue, waiting.message_id, level, now_ms + delay_ms, fields)
            case Park(delay_ms):
                return Waiting(
                    *(waiting.queue, waiting.message_id, waiting.level),
                    now_ms + max(1, delay_ms),
                    waiting.fields,
                )
            case Bury(reason, error):
                self.failed.append(Ended(message, reason, error))
                if outcome.notice:
                    self.producer.dispatcher.put(
                        Waiting(waiting.queue, "", 0, now_ms, outcome.notice)
                    )
            case Abandon() | Release():
                self.failed.append(Ended(message, "rejected", "its retry could not be prepared"))
        self.producer.release(waiting)
        return None

    def decoded(self, waiting: Waiting) -> Message[Any]:
        """The message as a worker would get it."""
        parts = [part.encode() if isinstance(part, str) else part for part in waiting.fields]
        return self.codec.decode(waiting.queue, entry.to_mapping(parts))

    def _lease(self, waiting: Waiting) -> Lease:
        with self._lock_here:
            self._count += 1
            entry_id = f"{self.clock.now_ms()}-{self._count}".encode()
        return Lease(waiting.level, entry_id, 1, self.consumer_name)

    def _start_loop(self) -> None:
        """Coroutines need their loop, which a worker starts when it boots and stops at its end."""
        with self._lock_here:
            if get_event_loop_thread() is None and any(
                isinstance(each, AsyncIO) for each in self.middleware
            ):
                loop = EventLoopThread(self.logger)
                loop.daemon = True  # nobody says here when the process ends
                loop.start(timeout=1.0)
                set_event_loop_thread(loop)


class _AtOnce:
    """Runs what is sent in the thread that sends it, and what has a delay on one of its own."""

    def __init__(self, broker: InlineBroker) -> None:
        self._broker = broker
        self._here = threading.local()

    def put(self, waiting: Waiting) -> None:
        wait_ms = waiting.due_ms - self._broker.clock.now_ms()
        if wait_ms > 0:
            self._later(wait_ms, lambda: self._run_all(deque([waiting])))
        else:
            self._pending().append(waiting)

    def sent(self) -> None:
        """Run what this thread has sent; what a job sends runs after that."""
        if not getattr(self._here, "running", False):
            self._run_all(self._pending())

    def _run_all(self, pending: deque[Waiting]) -> None:
        self._here.pending, self._here.running = pending, True
        try:
            while pending:
                self._to_its_end(pending.popleft())
        finally:
            self._here.running = False

    def _to_its_end(self, waiting: Waiting) -> None:
        again: Waiting | None = waiting
        while again is not None:
            wait_ms = min(LONGEST_WAIT_MS, again.due_ms - self._broker.clock.now_ms())
            if again is not waiting and wait_ms > 0:
                time.sleep(wait_ms / 1_000)
            again = self._broker.run(again)

    def _pending(self) -> deque[Waiting]:
        found: deque[Waiting] | None = getattr(self._here, "pending", None)
        if found is None:
            found = self._here.pending = deque()
        return found

    def _later(self, wait_ms: int, run: Callable[[], None]) -> None:
        timer = threading.Timer(wait_ms / 1_000, run)
        timer.daemon = True
        timer.name = "headrace-inline"
        timer.start()
