"""Dramatiq's broker contract on Redis Streams."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import redis
from dramatiq.actor import Actor
from dramatiq.broker import Broker, Consumer
from dramatiq.errors import QueueJoinTimeout
from dramatiq.message import Message
from dramatiq.middleware import Middleware, MiddlewareError, Retries, Shutdown
from dramatiq.worker import Worker

from broker import clients, evidence
from broker.checks import check_int, check_text
from broker.codec import Codec
from broker.commands import Commands
from broker.consumer import StreamsConsumer
from broker.contents import Contents
from broker.dead_routing import DeadRouting
from broker.delivery import Delivery
from broker.endings import Endings
from broker.errors import Refused
from broker.events import Events
from broker.flow_commands import FlowCommands
from broker.inspector import Inspector
from broker.jobs import Jobs
from broker.keys import MOST_PRIORITY
from broker.limits import QueueDepth, QueueLimit
from broker.options import NAMES, Options
from broker.producer import Producer
from broker.queue_rules import QueueRules
from broker.redaction import hide_sealed, without_texts
from broker.retention import DeadRetention, Retention
from broker.room import Hooks
from broker.schedule_commands import ScheduleCommands
from broker.schedules import Schedules
from broker.search import JobSearch
from broker.signals import Signals
from broker.worker_process import WorkerProcess


class StreamsBroker(Broker):
    """A drop-in for Dramatiq's RedisBroker on Streams consumer groups.

    Guarantee: a message whose ``enqueue`` returned runs at least once or is found among
    the dead letters. Construction does no I/O; a worker checks its server when it boots.

    Parameters (times in ms):
      url, client, **parameters: as for RedisBroker.
      heartbeat_timeout: the lease: how long a silent worker keeps its deliveries.
      dead_message_ttl: how long dead letters are kept.
      dead_letters: queue -> which of its dead letters are kept, in place of that.
      max_priority: the highest ``broker_priority``, 255 at the most; 0 is the lowest and the
        default.
      max_deliveries: unsettled deliveries after which an entry is buried.
      concurrency: queue -> most jobs of it that run at once in this process.
      limits: queue -> what holds for it over all processes; set when a worker starts.
      depths: queue -> how long it may become before producers are refused.
      retention: queue -> which records of its ended jobs stay; a thousand for a day by default.
      max_message_bytes: encoded messages above it are refused; larger entries are buried.
      unknown_actor_grace: how long a message is retried that a later deploy may know.
      maintenance_chance: accepted for compatibility; maintenance is not left to chance here.

    Attributes, beside RedisBroker's:
      inspector, jobs, search, events, contents: what operators and applications ask and do.
      producer, worker, rules: how it sends; this process as a worker; what holds for each queue.
      commands, flows, schedule_commands: the scripts. A worker's repeat nothing by themselves.
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
            ("max_deliveries", max_deliveries, 1),
            ("max_message_bytes", max_message_bytes, 1),
            ("unknown_actor_grace", unknown_actor_grace, 0),
        ):
            check_int(name, value, least)
        check_int("max_priority", max_priority, 0, MOST_PRIORITY)
        check_text("namespace", namespace)
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
        self.commands = Commands(self.client, namespace, max_priority)
        self.flows = FlowCommands(self.client, namespace, max_priority)
        self.schedule_commands = ScheduleCommands(self.client, namespace, max_priority)
        self.inspector = Inspector(
            self.commands, namespace, Schedules(self, self.schedule_commands)
        )
        self.jobs = Jobs(self.commands, self.inspector.queues)
        self.search = JobSearch(self.commands, self.jobs)
        self.events = Events(self.commands)
        self.contents = Contents(self.commands, self.codec)
        self._routing = DeadRouting(self.actors, self.codec)
        self._endings = Endings(self, self._options)
        self.worker = WorkerProcess(self, self.rules, self._routing, self._endings)
        self.producer = Producer(self, self._options, self.rules, self.worker.queues, self._hooks)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        """A consumer of one queue; raises Dramatiq's connection errors."""
        self.worker.work_on(queue_name)
        return StreamsConsumer(self, queue_name, prefetch, timeout)

    def declare_actor(self, actor: Actor[Any, Any]) -> None:
        """Declare an actor.

        Raises:
          InvalidActorOption: its ``on_dead`` or ``dead_queue`` breaks its rule.
        """
        self._routing.check(actor)
        actor.fn = self.worker.running.interruptible(actor.fn)
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
            if self.worker.in_flight(message.queue_name).owns(message):
                return self._endings.retry(message, delay)
            message = message.message  # another broker's, or one that has ended: sent as any other
        return self.producer.send([message], delay)[0]

    def enqueue_many(
        self, messages: Iterable[Message[Any]], delay: int | None = None
    ) -> list[Message[Any]]:
        """Enqueue messages in batches, with the guarantees of :meth:`enqueue`."""
        return self.producer.send_all(messages, delay)

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

    @property
    def max_entry_bytes(self) -> int:
        """What no entry exceeds that this broker's producers and workers have written."""
        return self.max_message_bytes + evidence.MOST_ADDED_BYTES

    @property
    def consumer_name(self) -> str:
        """Who this process is to the server: its worker's name, a new one at each boot."""
        return self.worker.name

    def emit_before(self, signal: str, *args: Any, **kwargs: Any) -> None:
        if signal == "worker_boot":
            self._boot(*args)
        elif signal == "worker_shutdown":
            self.worker.draining.set()
        elif signal == "process_message":
            self.worker.begin(*args)
        listeners = self._signals.listeners(f"before_{signal}", self.middleware)
        if not listeners:
            return
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
            self.worker.end(*args)
        elif signal == "worker_shutdown":
            self.worker.shut_down()  # first: the middleware sees the last settlements too
        listeners = self._signals.listeners(f"after_{signal}", self.middleware)
        if not listeners:
            return
        # What a shutdown interrupts is no failed attempt: the last one would be told of as dead.
        interrupted = isinstance(kwargs.get("exception"), Shutdown)
        self._hooks.running += 1
        try:
            for middleware, listener in reversed(listeners):
                if interrupted and isinstance(middleware, Retries):
                    continue
                try:
                    listener(self, *args, **kwargs)
                except Exception:
                    self._swallowed(f"after_{signal}", middleware, args)
        finally:
            self._hooks.running -= 1

    def _swallowed(self, signal: str, middleware: Middleware, args: tuple[Any, ...]) -> None:
        # As Dramatiq's own broker does: a middleware's defect stops no job.
        text = "Unexpected failure in %s of %r."
        error = sys.exception()
        if error is not None and any(isinstance(a, Delivery) and a.sealed for a in args):
            self.logger.critical(f"{text}\n%s", signal, middleware, without_texts(error))
        else:
            self.logger.critical(text, signal, middleware, exc_info=True)

    def _boot(self, worker: Worker | None) -> None:
        self.codec.refuse_pickle()
        hide_sealed()
        self.worker.look_at_server()
        client = clients.derive(self.client, socket_timeout=5.0)
        self.commands = Commands(client, self.namespace, self.max_priority, repeat=False)
        self.flows = FlowCommands(client, self.namespace, self.max_priority, repeat=False)
        self.worker.boot(worker)
