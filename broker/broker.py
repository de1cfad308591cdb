"""Dramatiq's broker contract on Redis Streams."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import redis
from dramatiq.actor import Actor
from dramatiq.broker import Broker, Consumer, MessageProxy
from dramatiq.common import current_millis
from dramatiq.errors import ActorNotFound, BrokerConnectionError, QueueJoinTimeout
from dramatiq.message import Message
from dramatiq.middleware import Middleware, MiddlewareError, Retries, Shutdown, SkipMessage

from broker import clients, current, evidence, flow_step, server
from broker.burial import burial, max_deliveries
from broker.cancellation import CancelListener, RunningJobs
from broker.codec import Codec
from broker.commands import Commands, Doomed, Settlement
from broker.consumer import StreamsConsumer
from broker.consumer_name import ConsumerName
from broker.contents import Contents
from broker.courier import Courier
from broker.dead_letters import DeadRetention
from broker.dead_routing import DeadRouting, is_notice
from broker.delivery import SUSPECT_FROM, Delivery, InFlight, Lease, SuspectSlot
from broker.errors import AwaitsDeploy, InvalidOption, Refused, ServerRefused
from broker.events import Events
from broker.facts import facts_of
from broker.flow_commands import FlowCommands
from broker.inspector import Inspector
from broker.jobs import Jobs
from broker.keeper import Keeper
from broker.keys import cancel_channel
from broker.limits import QueueDepth, QueueLimit
from broker.options import NAMES, Options, check_int
from broker.outbox import Letter
from broker.outcome import Abandon, Bury, Cancel, Done, Outcome, Park, Parked, Release, Retry
from broker.producer import Producer
from broker.queue_rules import QueueRules
from broker.redaction import hide_sealed, without_texts
from broker.retention import Retention
from broker.room import Hooks
from broker.schedule_commands import ScheduleCommands
from broker.schedules import Schedules
from broker.search import JobSearch
from broker.settler import Settler
from broker.signals import Signals
from broker.stopping import stop

_FORWARD_AGAIN_MS = 1_000
_FLUSH_SECONDS = 5.0
_LONGEST_DEPLOY_PAUSE = 15_000


class StreamsBroker(Broker):
    """A drop-in for Dramatiq's RedisBroker on Streams consumer groups.

    Guarantee: a message whose ``enqueue`` returned runs at least once or is found among
    the dead letters. Construction does no I/O; a worker checks its server when it boots.

    Parameters (times in ms):
      url, client, **parameters: as for RedisBroker.
      heartbeat_timeout: the lease: how long a silent worker keeps its deliveries.
      dead_message_ttl: how long dead letters are kept.
      dead_letters: queue -> which of its dead letters are kept, in place of that.
      max_priority: the highest ``broker_priority``; 0 is the lowest and the default.
      max_deliveries: unsettled deliveries after which an entry is buried.
      concurrency: queue -> most jobs of it that run at once in this process.
      limits: queue -> what holds for it over all processes; set when a worker starts.
      depths: queue -> how long it may become before producers are refused.
      retention: queue -> which records of its ended jobs stay; a thousand for a day by default.
      max_message_bytes: encoded messages above it are refused; larger entries are buried.
      unknown_actor_grace: how long a message is retried that a later deploy may know.
      maintenance_chance: accepted for compatibility; maintenance is not left to chance here.
    """

    def __init__(
        self,
        *,
        url: str | None = None,
        client: Any = None,
        namespace: str = "dramatiq",
        middleware: list[Middleware] | None = None,
        maintenance_chance: int = 1000,
        heartbeat_timeout: int = 60_000,
        dead_message_ttl: int = 604_800_000,
        max_priority: int = 9,
        max_deliveries: int = 5,
        concurrency: Mapping[str, int] | None = None,
        limits: Mapping[str, QueueLimit] | None = None,
        depths: Mapping[str, QueueDepth] | None = None,
        dead_letters: Mapping[str, DeadRetention] | None = None,
        retention: Mapping[str, Retention] | None = None,
        max_message_bytes: int = 16 * 1024 * 1024,
        unknown_actor_grace: int = 60_000,
        **parameters: Any,
    ) -> None:
        self._signals = Signals()
        self._hooks = Hooks()
        self.codec = Codec(namespace)
        self.codec.refuse_pickle()
        super().__init__(middleware=middleware)
        for name, value, least in (
            ("heartbeat_timeout", heartbeat_timeout, 1),
            ("dead_message_ttl", dead_message_ttl, 0),
            ("max_priority", max_priority, 0),
            ("max_deliveries", max_deliveries, 1),
            ("max_message_bytes", max_message_bytes, 1),
            ("unknown_actor_grace", unknown_actor_grace, 0),
        ):
            check_int(name, value, least)
        if not namespace:
            raise InvalidOption("namespace", namespace, "must be a non-empty string")
        self.rules = QueueRules(
            concurrency=concurrency,
            limits=limits,
            depths=depths,
            dead_letters=dead_letters,
            dead_message_ttl=dead_message_ttl,
            retention=retention,
        )
        if url:
            parameters["connection_pool"] = redis.ConnectionPool.from_url(url)
        self.client = client if client is not None else redis.Redis(**parameters)
        clients.check(self.client)
        self.actor_options |= NAMES
        self.queues: set[str] = set()
        self.namespace = namespace
        self.max_priority = max_priority
        self.heartbeat_timeout = heartbeat_timeout
        self.dead_message_ttl = dead_message_ttl
        self.max_deliveries = max_deliveries
        self.max_message_bytes = max_message_bytes
        self.unknown_actor_grace = unknown_actor_grace
        self._options = Options(self.actors, max_priority)
        self._routing = DeadRouting(self.actors, self.codec)
        self.commands = Commands(self.client, namespace, max_priority)
        self.schedule_commands = ScheduleCommands(self.client, namespace, max_priority)
        self.inspector = Inspector(
            self.commands, namespace, Schedules(self, self.schedule_commands)
        )
        self.jobs = Jobs(self.commands, self.inspector.queues)
        self.search = JobSearch(self.commands, self.jobs)
        self.events = Events(self.commands)
        self.contents = Contents(self.commands, self.codec)
        self.draining = threading.Event()
        self.suspects = SuspectSlot()
        self.flows = FlowCommands(self.client, namespace, max_priority)
        self._in_flight: dict[str, InFlight] = {}
        self.producer = Producer(self, self._options, self.rules, self._in_flight, self._hooks)
        self._lock = threading.Lock()
        self._boots = 0
        self._name = ConsumerName.of_this_process(0)
        self._limited: set[str] = set()
        self._blocking: Any = None
        self._checked = False
        self._running = RunningJobs()
        self._settler: Settler | None = None
        self._keeper: Keeper | None = None
        self._courier: Courier | None = None
        self._cancel_listener: CancelListener | None = None

    # -- Dramatiq's contract ----------------------------------------------------------

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        """A consumer of one queue; raises Dramatiq's connection errors."""
        if not self._checked:
            server.check(self.client)
            self._checked = True
        if queue_name not in self._limited:
            limit = self.rules.limit(queue_name)
            if limit is not None:
                self.commands.limit(queue_name, limit)
            self._limited.add(queue_name)
        consumer = StreamsConsumer(self, queue_name, prefetch, timeout)
        if self._keeper is not None:
            self._keeper.look_now()
        return consumer

    def declare_actor(self, actor: Actor[Any, Any]) -> None:
        """Declare an actor.

        Raises:
          InvalidActorOption: its ``on_dead`` or ``dead_queue`` breaks its rule.
        """
        self._routing.check(actor)
        super().declare_actor(actor)

    def declare_queue(self, queue_name: str) -> None:
        """Declare a queue; idempotent. Delays need no queue of their own here."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def get_declared_queues(self) -> set[str]:
        return self.queues.copy()

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """Enqueue a message, ``delay`` ms from now if given.

        Idempotent while the message waits or runs; a retry of a message in flight becomes
        part of its settlement.

        Raises:
          InvalidOption, MessageTooLarge, QueueFull, QueueClosed: nothing was enqueued.
          BrokerConnectionError: it may or may not have been enqueued.
        """
        if isinstance(message, Delivery):
            return self._retry(message, delay)
        return self.producer.send([message], delay)[0]

    def enqueue_many(
        self, messages: Iterable[Message[Any]], delay: int | None = None
    ) -> list[Message[Any]]:
        """Enqueue messages in batches, with the guarantees of :meth:`enqueue`."""
        return self.producer.send_all(messages, delay)

    @property
    def max_entry_bytes(self) -> int:
        """What no entry exceeds that this broker's producers and workers have written."""
        return self.max_message_bytes + evidence.MOST_ADDED_BYTES

    def _retry(self, delivery: Delivery, delay: int | None) -> Message[Any]:
        if delivery.cancelled:
            delivery.outcome = Cancel()
            return delivery._message
        if isinstance(delivery.exception, Shutdown):
            delivery.outcome = Release()
            return delivery._message
        # Until the successor is ready, a failure must not lose the job.
        delivery.outcome = Abandon()
        now = current_millis()
        options: dict[str, Any] = {} if delay is None else {"eta": now + delay}
        if delivery.exception is not None:
            worker = delivery.lease.consumer
            options |= evidence.options(delivery.options, delivery.exception, worker, now)
        message: Message[Any] = delivery.copy(options=options)
        self.emit_before("enqueue", message, delay)
        fields = self.producer.encode(message, added=evidence.MOST_ADDED_BYTES)
        delivery.outcome = Retry(max(0, int(delay or 0)), self._options.level(message), fields)
        self.emit_after("enqueue", message, delay)
        return message

    def flush(self, queue_name: str) -> None:
        """Drop all messages of a queue, its dead letters included."""
        self.inspector.purge(queue_name)
        self.inspector.purge_dead(queue_name)

    def flush_all(self) -> None:
        for queue_name in self.queues:
            self.flush(queue_name)

    def join(self, queue_name: str, *, interval: int = 100, timeout: int | None = None) -> None:
        """Wait until nothing of the queue is ready, in flight or scheduled; for tests.

        Raises:
          QueueJoinTimeout: after ``timeout`` ms.
        """
        deadline = None if timeout is None else time.monotonic() + timeout / 1000
        while self.inspector.size(queue_name):
            if deadline is not None and time.monotonic() >= deadline:
                raise QueueJoinTimeout(queue_name)
            time.sleep(interval / 1000)

    def add_middleware(
        self,
        middleware: Middleware,
        *,
        before: type[Middleware] | None = None,
        after: type[Middleware] | None = None,
    ) -> None:
        """As Dramatiq's. A middleware that seals messages seals the results as well.

        Raises:
          InvalidOption: there is one already that seals.
        """
        super().add_middleware(middleware, before=before, after=after)
        self.codec.use(self.middleware)

    # -- The worker's life ------------------------------------------------------------

    def emit_before(self, signal: str, *args: Any, **kwargs: Any) -> None:
        if signal == "worker_boot":
            self._boot()
        elif signal == "worker_shutdown":
            self.draining.set()
        elif signal == "process_message":
            self._begin(*args)
        listeners = self._signals.listeners(f"before_{signal}", self.middleware)
        self._hooks.running += 1
        try:
            for middleware, listener in listeners:
                try:
                    listener(self, *args, **kwargs)
                except Refused:
                    args[0].fail()  # or it would count as done
                    raise
                except MiddlewareError:
                    raise
                except Exception:
                    self._swallowed(f"before_{signal}", middleware, args)
        finally:
            self._hooks.running -= 1

    def emit_after(self, signal: str, *args: Any, **kwargs: Any) -> None:
        if signal in ("process_message", "skip_message"):
            self._running.leave(*args)
            current.end()
            flow_step.forget_pipe(args[0].options)
        elif signal == "worker_shutdown":
            self._shut_down()  # first: the middleware sees the last settlements too
        listeners = self._signals.listeners(f"after_{signal}", self.middleware)
        self._hooks.running += 1
        try:
            for middleware, listener in reversed(listeners):
                try:
                    listener(self, *args, **kwargs)
                except Exception:
                    self._swallowed(f"after_{signal}", middleware, args)
        finally:
            self._hooks.running -= 1

    def _begin(self, delivery: Delivery) -> None:
        retries = delivery.options.get("retries")
        delivery.attempt = 1 + retries if isinstance(retries, int) else 1  # whoever wrote it
        try:
            self._running.enter(delivery)
        except SkipMessage:
            delivery.outcome = Cancel()
            raise
        if is_notice(delivery):
            self._forward(delivery)
        flow_step.pretend_pipe(delivery.options)
        delivery.started_ms = current_millis()
        current.begin(delivery, self.commands.progress)

    def _forward(self, notice: Delivery) -> None:
        """Send a notice on to its actor's own queue; a crash leaves it here, to be sent again.

        Raises:
          SkipMessage: it was sent, or is put off since the other queue's server is away.
        """
        queue = self.get_actor(notice.actor_name).queue_name
        if queue == notice.queue_name:
            return
        try:
            self.producer.forward(notice._message, queue)
        except BrokerConnectionError as error:
            self.logger.warning("A notice for queue %r is put off: %s", queue, error)
            notice.outcome = Park(_FORWARD_AGAIN_MS)
        raise SkipMessage(f"it runs in queue {queue!r}")

    def _swallowed(self, signal: str, middleware: Middleware, args: tuple[Any, ...]) -> None:
        # As Dramatiq's own broker does: a middleware's defect stops no job.
        text = "Unexpected failure in %s of %r."
        error = sys.exception()
        if error is not None and any(isinstance(a, Delivery) and a.sealed for a in args):
            self.logger.critical(f"{text}\n%s", signal, middleware, without_texts(error))
        else:
            self.logger.critical(text, signal, middleware, exc_info=True)

    def _boot(self) -> None:
        self.codec.refuse_pickle()
        hide_sealed()
        try:
            server.check(self.client)
            self._checked = True
        except ServerRefused:
            raise
        except BrokerConnectionError as error:
            self.logger.critical("The server can't be reached yet: %s", error)
        self._limited.clear()
        self._boots += 1
        self._name = ConsumerName.of_this_process(self._boots)
        self.draining.clear()
        self.commands = Commands(
            clients.derive(self.client, socket_timeout=5.0),
            self.namespace,
            self.max_priority,
            repeat=False,
        )
        self.flows = FlowCommands(
            self.commands.client, self.namespace, self.max_priority, repeat=False
        )
        self._courier = Courier(self.flows, self._out_of_time)
        self._courier.start()
        self._settler = Settler(
            self.commands,
            self.rules.retention,
            lambda *end: self.emit_after("settle", *end),
            self._courier.put,
        )
        self._settler.start()
        self._keeper = Keeper(
            self.commands,
            lambda: dict(self._in_flight),
            self._name,
            lease_ms=self.heartbeat_timeout,
            max_deliveries=self.max_deliveries,
            dead_retention=self.rules.dead_retention,
            retention=self.rules.retention,
            on_cancelled=self._running.cancel,
            told_of=self._routing.actors,
            dead_queues=self._routing.queues,
            bury=self._bury_doomed,
            look_for_letters=self._courier.sweep,
        )
        self._keeper.start()
        self._cancel_listener = CancelListener(
            self.client,
            cancel_channel(self.namespace),
            on_cancel=self._cancel,
            on_gap=self._keeper.look_now,
        )
        self._cancel_listener.start()

    def deliver(self, queue: str, letters: list[Letter]) -> None:
        """Deliver letters of an outbox that this process wrote, soon."""
        if self._courier is not None:
            self._courier.put(queue, letters)

    def expect_end_of_flow(self, home: str, in_ms: int) -> None:
        """Be there when the time of a flow is over."""
        if self._courier is not None:
            self._courier.sweep(home, in_ms / 1000)

    def _out_of_time(self, home: str, flow_id: str) -> None:
        stop(self.flows, self.commands.cancel, home, flow_id, "timed_out")

    def _cancel(self, message_id: str) -> None:
        for held in list(self._in_flight.values()):
            delivery = held.holds(message_id)
            if delivery is not None:
                self._running.cancel(delivery)

    def drain(self) -> None:
        """Take no more jobs; returns when those that this process has taken are ended.

        There is no way back but a new worker. Settlements may still be on their way; the
        worker's shutdown waits for them.
        """
        self.draining.set()
        for held in list(self._in_flight.values()):
            held.wait_for_end()

    def revive(self) -> None:
        """Start the worker's threads again if one has died; consumers see to it."""
        if self._settler is not None and self._keeper is not None:
            self._settler.revive()
            self._keeper.revive()
        if self._courier is not None:
            self._courier.revive()

    def _shut_down(self) -> None:
        for queue, held in self._in_flight.items():
            for delivery in held.drain():
                self._settle(queue, delivery, Release())
        if self._settler is not None:
            self._settler.stop(_FLUSH_SECONDS)
        if self._courier is not None:
            self._courier.stop(_FLUSH_SECONDS)
        if self._keeper is not None:
            self._keeper.stop()
        if self._cancel_listener is not None:
            self._cancel_listener.stop()

    @property
    def consumer_name(self) -> str:
        return str(self._name)

    def in_flight(self, queue_name: str) -> InFlight:
        """What this process holds of a queue, whichever consumer object took it."""
        with self._lock:
            if queue_name not in self._in_flight:
                self._in_flight[queue_name] = InFlight(self.rules.concurrency(queue_name))
            return self._in_flight[queue_name]

    def blocking_client(self, block_ms: int) -> Any:
        """The client for blocked reads; its time-out is longer than any block."""
        with self._lock:
            if (
                self._blocking is None
                or self._blocking[0] != os.getpid()
                or self._blocking[1] < block_ms
            ):
                client = clients.derive(self.client, socket_timeout=block_ms / 1000 + 5)
                self._blocking = (os.getpid(), block_ms, client)
            return self._blocking[2]

    # -- Settling ---------------------------------------------------------------------

    def finish(self, message: MessageProxy, *, failed: bool) -> None:
        """Settle a delivery that Dramatiq acknowledged or rejected; returns at once."""
        if not isinstance(message, Delivery):
            raise TypeError(f"{message!r} was not delivered by this broker")
        if not self.in_flight(message.queue_name).remove(message):
            return  # released at shutdown
        message.outcome = self._outcome(message, failed)
        self._settle(message.queue_name, message, message.outcome)

    def _settle(self, queue: str, delivery: Delivery, outcome: Outcome) -> None:
        if isinstance(outcome, Abandon | Parked):
            self.suspects.free(delivery.lease)
            return
        message = delivery._message
        key = self._options.get(message, "deduplication_key", None) or ""
        failure = None if delivery.cancelled else delivery.exception
        error = "" if failure is None else delivery.told(failure)
        # Not recorded(): another language's option of any kind must not hinder the end.
        recorded = self._options.get(message, "records", True) is not False
        facts = facts_of(delivery, error) if recorded else None
        self._put(
            queue,
            Settlement(delivery.lease, message.message_id, str(key), outcome, facts, error),
        )

    def settle_raw(self, queue: str, lease: Lease, message_id: str, outcome: Outcome) -> None:
        """Settle an entry that is no message."""
        self._put(queue, Settlement(lease, message_id, "", outcome))

    def _bury_doomed(self, queue: str, doomed: Doomed) -> None:
        """Bury what was delivered too often, and whose actor wants somebody to be told."""
        bury = max_deliveries(doomed)
        facts = ["actor", doomed.actor, "queued", doomed.at]
        facts += ("deliveries", str(doomed.lease.count), "error", bury.error)
        self._put(queue, Settlement(doomed.lease, doomed.message_id, "", bury, facts))

    def _put(self, queue: str, settlement: Settlement) -> None:
        if isinstance(settlement.outcome, Bury):
            settlement = self._routing.routed(queue, settlement, settlement.outcome)
        if settlement.lease.count >= SUSPECT_FROM:
            self.suspects.free(settlement.lease)
        if self._settler is None:
            raise RuntimeError("deliveries exist only while a worker runs")
        self._settler.put(queue, settlement)

    def _outcome(self, delivery: Delivery, failed: bool) -> Outcome:
        error = delivery.exception
        if delivery.cancelled and (failed or error is not None):
            return Cancel()
        if failed:
            if isinstance(error, Shutdown):
                return Release()
            if isinstance(error, ActorNotFound | AwaitsDeploy):
                return self._await_deploy(delivery)
            return self._burial(delivery, self._options.get(delivery._message, "throws", None))
        if delivery.outcome is not None:
            return delivery.outcome
        # With Retries in place a failure is retried or rejected. Neither happened: preparing
        # the retry failed and Dramatiq swallowed the error.
        if (
            error is not None
            and not delivery.requeued
            and any(isinstance(m, Retries) for m in self.middleware)
        ):
            return Abandon()
        return Done(delivery.result)

    def _burial(self, delivery: Delivery, throws: Any) -> Bury:
        bury = burial(delivery, throws)
        if not delivery.sealed:
            return bury
        trail = self.codec.seal_trail(delivery._message, bury.trail)
        return dataclasses.replace(bury, trail=trail)

    def _await_deploy(self, delivery: Delivery) -> Outcome:
        """Retry for the grace (a rolling deploy may bring what knows it), then bury."""
        now = current_millis()
        since = delivery.options.setdefault("unknown_since", now)
        waited = now - since
        if waited >= self.unknown_actor_grace:
            return self._burial(delivery, None)
        pause = min(
            max(250, waited), _LONGEST_DEPLOY_PAUSE, max(1, self.unknown_actor_grace - waited)
        )
        fields = self.producer.encode(delivery._message, added=evidence.MOST_ADDED_BYTES)
        return Retry(pause, delivery.lease.level, fields)
