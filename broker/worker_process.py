"""This process as a worker: what it holds, and how each of its jobs begins and ends."""

from __future__ import annotations

import math
import os
import threading
from typing import TYPE_CHECKING, Any

from dramatiq.broker import MessageProxy
from dramatiq.common import current_millis
from dramatiq.errors import BrokerConnectionError
from dramatiq.middleware import SkipMessage
from dramatiq.worker import QUEUE_PREFETCH

from broker import clients, current, flow_step, server
from broker.ahead import Ahead, withdraw
from broker.cancellation import RunningJobs
from broker.clock import LONGEST_DELAY_MS
from broker.consumer_name import ConsumerName
from broker.dead_routing import DeadRouting, is_notice
from broker.delivery import Delivery
from broker.endings import Endings
from broker.errors import ServerRefused
from broker.in_flight import InFlight, SuspectSlot
from broker.outbox import Letter
from broker.outcome import Abandon, Bury, Cancel, Park, Parked, Release, Retry
from broker.queue_rules import QueueRules
from broker.settlement import Settlement
from broker.worker_threads import WorkerThreads

if TYPE_CHECKING:
    from dramatiq import Worker

    from broker.broker import StreamsBroker

_FORWARD_AGAIN_MS = 1_000


class WorkerProcess:
    """What consumers, jobs and threads share. One a broker, for all workers one after another."""

    def __init__(
        self, broker: StreamsBroker, rules: QueueRules, routing: DeadRouting, endings: Endings
    ) -> None:
        self._broker = broker
        self._rules = rules
        self._routing = routing
        self._endings = endings
        self._own_name = ConsumerName.of_this_process()
        self.name = str(self._own_name)
        #: Take no more jobs.
        self.draining = threading.Event()
        self.suspects = SuspectSlot()
        self.running = RunningJobs()
        #: What it holds of each queue that it works on.
        self.queues: dict[str, InFlight] = {}
        self._threads: WorkerThreads | None = None
        self._server_checked = False
        self._limited: set[str] = set()
        self._lock = threading.Lock()
        self._blocking: Any = None
        self._dramatiq_worker: Worker | None = None

    # -- From boot to shutdown --------------------------------------------------------

    def look_at_server(self) -> None:
        """Check it as :func:`broker.server.check` does; one that is away may come yet."""
        try:
            self._check_server()
        except ServerRefused:
            raise
        except BrokerConnectionError as error:
            self._broker.logger.critical("The server can't be reached yet: %s", error)

    def _check_server(self) -> None:
        server.check(self._broker.client)
        self._server_checked = True

    def boot(self, dramatiq_worker: Worker | None) -> None:
        """Begin under a name of its own, by the broker's present commands."""
        self._dramatiq_worker = dramatiq_worker
        self._limited.clear()
        self._own_name = ConsumerName.of_this_process()
        self.name = str(self._own_name)
        self.draining.clear()
        self._threads = WorkerThreads(
            self._broker, self, self._own_name, self._rules, self._routing
        )
        self._threads.start()

    def work_on(self, queue: str) -> None:
        """A consumer of the queue is about to come. Raises Dramatiq's connection errors."""
        if not self._server_checked:
            self._check_server()
        if queue not in self._limited:
            limit = self._rules.limit(queue)
            if limit is not None:
                self._broker.commands.limit(queue, limit)
            self._limited.add(queue)
        self.in_flight(queue)
        if self._threads is None:
            self.draining.clear()  # somebody consumes without a Worker, perhaps after one
        else:
            self._threads.keeper.look_now()

    def revive(self) -> None:
        """Start its threads again if one has died; consumers see to it."""
        if self._threads is not None:
            self._threads.revive()

    def drain(self) -> None:
        """Take no more jobs; returns when those that this process has taken are ended.

        There is no way back but a new worker. Settlements may still be on their way; the
        worker's shutdown waits for them.
        """
        self.draining.set()
        for held in list(self.queues.values()):
            held.wait_for_end()

    def shut_down(self) -> None:
        """Hand back what has not ended, and write what has."""
        try:
            for queue, held in self.queues.items():
                for delivery in held.drain():
                    self._settle_released(queue, delivery)
        finally:
            threads, self._threads = self._threads, None
            if threads is not None and threads.stop():
                self._leave()
            self._own_name.end()

    def _leave(self) -> None:
        """Have the server forget this worker where it holds nothing; others would in two leases."""
        try:
            for queue in self.queues:
                self._broker.commands.leave(queue, self.name)
        except BrokerConnectionError as error:
            self._broker.logger.warning("This worker stays known for a while: %s", error)

    # -- What it holds ----------------------------------------------------------------

    def in_flight(self, queue: str) -> InFlight:
        """What it holds of a queue, whichever consumer object took it."""
        with self._lock:
            if queue not in self.queues:
                self.queues[queue] = InFlight(self._rules.concurrency(queue))
            return self.queues[queue]

    def ahead(self, queue: str, prefetch: int) -> Ahead:
        """How many deliveries of a queue to hold; a prefetch that somebody has set is kept to."""
        fixed = bool(QUEUE_PREFETCH) or self._dramatiq_worker is None
        return self.in_flight(queue).ahead(prefetch, fixed=fixed)

    def hand_back(self, queue: str, count: int) -> None:
        """Hand back the last so many of a queue's deliveries that wait for a thread."""
        if self._dramatiq_worker is not None:
            for delivery in withdraw(self._dramatiq_worker.work_queue, queue, count):
                self.release(delivery)

    def release(self, delivery: Delivery) -> None:
        """Hand back a delivery whose job has not begun."""
        queue = delivery.queue_name
        if self.in_flight(queue).remove(delivery, ended=False):
            self._settle_released(queue, delivery)

    def _settle_released(self, queue: str, delivery: Delivery) -> None:
        try:
            settlement = self._endings.settlement(delivery, Release())
        except Exception:  # what its options hold, whoever wrote them, hinders no release
            settlement = Settlement(delivery.lease, "", "", Release())
        self.settle(queue, settlement)

    def wait_to_take(self, queue: str, timeout: float) -> bool:
        """Wait until a queue may be taken from; False if not in ``timeout`` seconds."""
        return self._threads is None or self._threads.settler.wait_to_take(queue, timeout)

    def blocking_client(self, block_ms: int) -> Any:
        """The client for blocked reads; its time-out is longer than any block."""
        with self._lock:
            if (
                self._blocking is None
                or self._blocking[0] != os.getpid()
                or self._blocking[1] < block_ms
            ):
                timeout_s = block_ms / 1000 + 5
                client = clients.derive(self._broker.client, socket_timeout=timeout_s)
                self._blocking = (os.getpid(), block_ms, client)
            return self._blocking[2]

    # -- A job ------------------------------------------------------------------------

    def begin(self, delivery: Delivery) -> None:
        """Its job begins, on this thread.

        Raises:
          SkipMessage: it is cancelled, or runs elsewhere.
        """
        retries = delivery.options.get("retries")
        delivery.attempt = 1 + retries if isinstance(retries, int) else 1  # whoever wrote it
        if delivery.cancelled:
            delivery.outcome = Cancel()
            raise SkipMessage("cancelled")
        if is_notice(delivery):
            self._forward(delivery)
        flow_step.pretend_pipe(delivery.options)
        delivery.started_ms = current_millis()
        current.begin(delivery, self._broker.commands.progress)

    def _forward(self, notice: Delivery) -> None:
        """Send a notice on to its actor's own queue; a crash leaves it here, to be sent again."""
        queue = self._broker.get_actor(notice.actor_name).queue_name
        if queue == notice.queue_name:
            return
        try:
            self._broker.producer.forward(notice.message, queue)
        except BrokerConnectionError as error:
            self._broker.logger.warning("A notice for queue %r is put off: %s", queue, error)
            notice.outcome = Park(_FORWARD_AGAIN_MS)
        raise SkipMessage(f"it runs in queue {queue!r}")

    def end(self, delivery: Delivery) -> None:
        """Its job has ended, or was skipped; the delivery is still to be finished."""
        self.running.leave(delivery)  # an interrupt may have kept the function's end from it
        current.end()
        flow_step.forget_pipe(delivery.options)

    def cancel(self, message_id: str) -> None:
        """End the message's job if it is here."""
        for held in list(self.queues.values()):
            delivery = held.holds(message_id)
            if delivery is not None:
                self.running.cancel(delivery)

    def finish(self, message: MessageProxy, *, failed: bool) -> None:
        """Settle a delivery that was acknowledged or rejected; with a Worker it returns at once."""
        if not isinstance(message, Delivery):
            raise TypeError(f"{message!r} was not delivered by this broker")
        held = self.in_flight(message.queue_name)
        if not held.remove(message):
            return  # released at shutdown
        try:
            outcome = message.outcome = self._endings.outcome(message, failed=failed)
            if not isinstance(outcome, Abandon | Parked):
                self.settle(message.queue_name, self._endings.settlement(message, outcome))
        except BrokerConnectionError:  # without a Worker: it may be acknowledged again
            held.keep(message)
            raise
        finally:
            self.suspects.free(message.lease)

    def put_off(self, delivery: Delivery, delay_ms: float) -> None:
        """Schedule the message of a delivery that is not held, instead of running it."""
        delivery.attempt = 0
        fields = self._broker.codec.encode(delivery.message)
        outcome = Retry(math.ceil(min(delay_ms, LONGEST_DELAY_MS)), delivery.lease.level, fields)
        self.settle(delivery.queue_name, self._endings.settlement(delivery, outcome))

    def settle(self, queue: str, settlement: Settlement) -> None:
        """Have the end of a delivery written; with a Worker it returns at once."""
        self.suspects.free(settlement.lease)
        if isinstance(settlement.outcome, Bury):
            settlement = self._routing.routed(queue, settlement, settlement.outcome)
        if self._threads is None:  # somebody consumes without a Worker, and waits for it
            kept = self._rules.retention(queue).completed
            self._broker.commands.settle(queue, [settlement], kept, self.deliver)
        else:
            self._threads.settler.put(queue, settlement)

    # -- Flows ------------------------------------------------------------------------

    def deliver(self, queue: str, letters: list[Letter]) -> None:
        """Deliver letters of an outbox that this process wrote, soon."""
        if self._threads is not None:
            self._threads.courier.put(queue, letters)

    def expect_end_of_flow(self, home: str, in_ms: int) -> None:
        """Be there when the time of a flow is over."""
        if self._threads is not None:
            self._threads.courier.sweep(home, in_ms / 1000)
