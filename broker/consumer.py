"""Dramatiq's consumer of one queue: fetch, and a blocking read when that is empty."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import redis
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.errors import DecodeError
from dramatiq.logging import get_logger

from broker import entry, evidence, foreign_options
from broker.ahead import STALE_MS
from broker.commands import Fetched, Handed
from broker.delivery import Delivery, Lease
from broker.direct import pipeline
from broker.errors import translated
from broker.flow_step import OPTION
from broker.keys import GROUP
from broker.outcome import Bury, Outcome, Release
from broker.sealing import NotOpened, Replayed, Unauthenticated
from broker.settlement import Settlement

if TYPE_CHECKING:
    from broker.broker import StreamsBroker

_LOWEST_FIRST_EVERY = 10
_LINGER = 0.001  # seconds to wait for half the places to be free, so that fetches come in batches
_WAY_S = 0.0002  # seconds in which an idle worker's thread has begun the job that came
_MOST_OF_A_NAME = 200  # bytes of what somebody wrote as the name of an actor
_STREAM_GONE = ("UNBLOCKED", "NOGROUP")
# An idle queue is looked at by blocking alone, and fetched from in one round of so many:
# whatever makes work for it writes a stream that is being read. Not never, because a signal
# may have gone to a reader that died with it.
_FETCH_EVERY_QUIET = 5


class StreamsConsumer(Consumer):
    """Iterates over the deliveries of one queue; None after ``timeout`` ms without any."""

    def __init__(self, broker: StreamsBroker, queue_name: str, prefetch: int, timeout: int) -> None:
        self.logger = get_logger(__name__, type(self))
        self.broker = broker
        self.queue_name = queue_name
        self.timeout = timeout
        self._worker = broker.worker
        self._in_flight = self._worker.in_flight(queue_name)
        self._in_flight.begin_taking()
        self._ahead = self._worker.ahead(queue_name, prefetch)
        self._keys = broker.commands.keys(queue_name)
        self._fetches = 0
        #: Blocked reads in a row that brought nothing, while nothing is scheduled.
        self._quiet = 0
        self._gated = False
        #: The thread that is to run what came last waits for the interpreter's lock.
        self._gives_way = False
        self._signals: list[bytes] = []
        #: The server's time, unix ms, as the last fetch told, and when that was.
        self._told_ms, self._told_at = 0, 0.0
        self._idle = threading.Event()

    def __next__(self) -> MessageProxy | None:
        delivery = self._in_flight.next()
        if delivery is not None:
            return delivery
        if self._gives_way:
            self._gives_way = False
            time.sleep(_WAY_S)
        self._worker.revive()
        self._hand_back_surplus()
        if self._worker.draining.is_set():
            self._in_flight.stop_taking()
            self._tell()
            self._idle.wait(min(self.timeout, 100) / 1000)
            return None
        room = self._wait_for_room()
        if room <= 0 or not self._worker.wait_to_take(self.queue_name, self.timeout / 1000):
            return None
        if self._quiet % _FETCH_EVERY_QUIET:
            self._block(room, self._patience())
        else:
            self._fetch(room)
        return self._in_flight.next()

    def _wait_for_room(self) -> int:
        """Wait until a fetch is worth it; returns how many to take, 0 for none yet."""
        ahead, held, wait = self._ahead, self._in_flight.held, self._in_flight.wait_for_room
        half = max(1, ahead.limit // 2)
        if ahead.reaches_out:
            if wait(ahead.limit, half, STALE_MS / 1000) < half:
                return 0
        else:
            if held() >= ahead.limit:
                self._tell()
            room = wait(ahead.limit, 1, self._patience() / 1000)
            if room <= 0:
                return 0
            if room < half:
                wait(ahead.limit, half, _LINGER)
        ahead.look(self._in_flight.ended)
        if self._gated:  # what its limits let through is for all workers
            ahead.fall_back()
        return ahead.limit - held()

    def _patience(self) -> int:
        """How long to wait in ms: what is held beyond the prefetch is looked at soon."""
        surplus = self._ahead.surplus(self._in_flight.held())
        return min(self.timeout, STALE_MS) if surplus else self.timeout

    def _hand_back_surplus(self) -> None:
        if self._ahead.is_stale():
            self._ahead.fall_back()
            surplus = self._ahead.surplus(self._in_flight.held())
            if surplus:
                self._worker.hand_back(self.queue_name, surplus)

    def _ask(self, room: int, *, suspects: int, brought: Sequence[Handed] = ()) -> Fetched:
        # Most of a fetch for short jobs has ended by the next one: settlements tell of those.
        quietly, untold = self._ahead.reaches_out and room > 0, self._in_flight.untold
        due = untold.due(early=not quietly)
        fetched = self.broker.commands.fetch(
            self.queue_name,
            self._worker.name,
            room,
            lowest_first=self._fetches % _LOWEST_FIRST_EVERY == 0,
            suspects=suspects,
            taken=[*brought, *due],
            tell=not quietly,
            signals=self._signals,
        )
        self._signals = []
        self._told_ms, self._told_at = fetched.now_ms, time.monotonic()
        untold.drop(due)
        if quietly:
            first = (each for each in fetched.deliveries if each.lease.count == 1)
            untold.add(first, wait_s=STALE_MS / 1000)
        return fetched

    def _tell(self) -> None:
        """Tell the records of what they were not told of, if there is any."""
        if self._in_flight.untold.any():
            self._ask(0, suspects=0)

    def _fetch(self, room: int) -> None:
        self._fetches += 1
        reserved = self._worker.suspects.reserve()
        leases: list[Lease] = []
        try:
            fetched = self._ask(room, suspects=int(reserved))
            leases = [handed.lease for handed in fetched.deliveries]
        finally:
            if reserved:
                self._worker.suspects.occupy(leases)
        self._gated = fetched.gated
        if fetched.deliveries:
            self._take(fetched.deliveries)
            return
        self._tell()
        if fetched.due_in_ms is None:
            self._block(room, self._patience())
        elif fetched.due_in_ms > 0:
            block_ms = min(self._patience(), fetched.due_in_ms)
            self._block(room, block_ms, due_s=block_ms / 1000)
            self._quiet = 0

    def _block(self, room: int, block_ms: int, *, due_s: float | None = None) -> None:
        if block_ms <= 0:  # to the server that is for ever
            return
        streams = [self._keys.wake] if self._gated else [*self._keys.ready, self._keys.wake]
        consumer, block = self._worker.name, ("COUNT", 1, "BLOCK", block_ms)
        ids = [">"] * len(streams)
        read = ("XREADGROUP", "GROUP", GROUP, consumer, *block, "STREAMS", *streams, *ids)
        # Answered after the read: a pause or limit set while it began is seen here.
        look = ("HMGET", self._keys.control, "paused", "global_concurrency", "rate")
        with translated():
            client = self._worker.blocking_client(block_ms)
            reply, gates = pipeline(client, streams[0], read, look, due_s=due_s)
            if isinstance(reply, redis.ResponseError) and str(reply).startswith(_STREAM_GONE):
                self._quiet = 0
                return  # deleted under us: the next fetch makes it again
            for failure in (reply, gates):
                if isinstance(failure, Exception):
                    raise failure
        self._quiet = 0 if reply else self._quiet + 1
        handed = self._read(reply or ())
        if any(gate is not None for gate in gates):
            room = 0
        # The server counts by level: a batch of several wakes this up with one of each.
        handed.sort(key=lambda each: each.lease.level, reverse=True)
        for surplus in handed[room:]:
            self._settle(surplus.lease, "", Release())
        handed = handed[:room]
        if handed:
            if any(b"sealed" in each.fields[::2] for each in handed):
                handed = self._looked_up(handed)
            else:
                self._in_flight.untold.add(handed)
            self._gives_way = True
            self._take(handed)

    def _looked_up(self, handed: list[Handed]) -> list[Handed]:
        """What a blocked read brought; which are replays the records are asked, and told."""
        try:
            replays = self._ask(0, suspects=0, brought=handed).replays
        except Exception:
            for each in handed:  # they are ours by now, and would wait for their leases
                self._settle(each.lease, "", Release())
            raise
        return [msgspec.structs.replace(each, replay=each in replays) for each in handed]

    def _read(self, reply: Iterable[Any]) -> list[Handed]:
        handed = []
        for stream, entries in reply:
            name = stream.decode()
            for entry_id, fields in entries:
                if name == self._keys.wake:
                    self._signals.append(entry_id)
                elif fields:
                    lease = Lease(self._keys.ready.index(name), entry_id, 1, self._worker.name)
                    if isinstance(fields, dict):  # a cluster's client converts
                        fields = [part for pair in fields.items() for part in pair]
                    handed.append(Handed(lease, fields))
        return handed

    def _take(self, handed: Iterable[Handed]) -> None:
        left, deliveries = deque(handed), list[Delivery]()
        try:
            while left:
                delivery = self._deliver(left[0])
                left.popleft()
                if delivery is not None:
                    deliveries.append(delivery)
            self.broker.emit_before("take", deliveries)
        except BaseException:
            ours = [each.lease for each in deliveries] + [each.lease for each in left]
            for lease in ours:  # held by nobody, they would wait until they run out
                self._settle(lease, "", Release())
            raise
        self._in_flight.add(deliveries)

    def _deliver(self, handed: Handed) -> Delivery | None:
        try:
            if handed.replay:
                raise Replayed("its message has ended, or was never enqueued")
            size, most = sum(map(len, handed.fields)), self.broker.max_entry_bytes
            if size > most:
                raise DecodeError(f"entry of {size} bytes, the most is {most}", b"", None)
            fields = entry.to_mapping(handed.fields)
            if 2 * len(fields) < len(handed.fields):
                # The scripts go by the first one of a name, and what is opened by the last.
                raise Unauthenticated("a field is there twice")
            message = self.broker.codec.decode(self.queue_name, fields)
            delivery = Delivery(message, handed.lease)
            foreign_options.drop_throws(delivery.options)
            early_ms = foreign_options.take_eta(delivery.options, self._server_now_ms())
            if early_ms > 0:
                self._worker.put_off(delivery, early_ms)
                return None
        except (Unauthenticated, Replayed) as error:
            # Not by its id: it must not end the genuine message in whose name it comes.
            self._bury(handed, b"", error)
        except Exception as error:  # whoever wrote it: the others beside it are to be delivered
            self._bury(handed, handed.field(b"id"), error)
        else:
            if OPTION in message.options:
                delivery.given = handed.field(b"given")
            return delivery
        return None

    def _server_now_ms(self) -> int:
        """The server's time, unix ms: what it told last and how long ago that is."""
        return self._told_ms + int((time.monotonic() - self._told_at) * 1000)

    def _bury(self, handed: Handed, message_id: bytes, error: Exception) -> None:
        reason = error.reason if isinstance(error, NotOpened) else "undecodable"
        self.logger.error(
            "Burying entry %r of queue %r (%s): %s",
            handed.lease.entry_id,
            self.queue_name,
            reason,
            error,
            extra={"queueName": self.queue_name, "jobId": message_id.decode("utf-8", "replace")},
        )
        id, said = message_id.decode("utf-8", "replace"), evidence.shortened(str(error))
        actor = handed.field(b"actor")[:_MOST_OF_A_NAME].decode("utf-8", "replace")
        outcome = Bury(reason, said, actor, evidence.error_type(error))
        self._settle(handed.lease, id, outcome)

    def _settle(self, lease: Lease, message_id: str, outcome: Outcome) -> None:
        """Settle an entry of which there is no delivery."""
        self._worker.settle(self.queue_name, Settlement(lease, message_id, "", outcome))

    def ack(self, message: MessageProxy) -> None:
        self._worker.finish(message, failed=False)

    def nack(self, message: MessageProxy) -> None:
        self._worker.finish(message, failed=True)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        for message in messages:
            if isinstance(message, Delivery):
                self._worker.release(message)

    def close(self) -> None:
        self._hand_back_surplus()  # a worker that pauses looks at it no more
        self._idle.set()
