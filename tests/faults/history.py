"""The checker: what was promised, what was done, and what is left.

A fault may delay a job and, once for each injected failure, repeat it. It may
not lose an acknowledged message, keep it in two places, or finish it twice.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import redis
from dramatiq import Message
from dramatiq.errors import BrokerConnectionError

from broker import StreamsBroker
from broker.packing import unpack
from tests.applications import Effects
from tests.faults.leftovers import leftovers
from tests.waiting import PATIENCE_S, eventually

_PAGE = 20_000

#: A job's record is given its final state exactly when the job is finished or buried.
_FINISHED = re.compile(r"^HSET (\{[^}]*\}):job:(\S+) state (?:completed|dead)\b")


#: The same in the append-only file, which keeps what scripts wrote as the commands they ran.
_FINISHED_IN_AOF = re.compile(
    rb"HSET\r\n\$\d+\r\n\{[^}]*\}:job:([^\r]+)\r\n\$5\r\nstate\r\n\$\d+\r\n(?:completed|dead)\r\n"
)


class Finalised(Protocol):
    """Something that knows how often the server finished or buried each message."""

    def stop(self) -> Counter[str]:
        """The counts, complete up to the first call."""
        ...


class FinalisationsInFile:
    """Counts in the append-only file: for servers that are killed, or that kill connections."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def stop(self) -> Counter[str]:
        """The counts, complete up to now."""
        parts = sorted(self._data_dir.rglob("*.aof"))
        assert parts, f"{self._data_dir} has no append-only file"
        found = _FINISHED_IN_AOF.findall(b"".join(part.read_bytes() for part in parts))
        return Counter(message_id.decode() for message_id in found)


class Finalisations:
    """Counts, for every message, how often the server finished or buried it.

    It listens to MONITOR: what scripts really did, whatever the workers believe.
    """

    def __init__(self, url: str) -> None:
        #: By queue and message: a notice of a death goes on under its id in another queue.
        self.count: Counter[tuple[str, str]] = Counter()
        self._url = url
        self._client = redis.Redis.from_url(url, protocol=2, socket_timeout=PATIENCE_S)
        self._mark = f"end-{uuid4().hex}"
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        assert self._listening.wait(10), "MONITOR did not start"

    def stop(self) -> Counter[str]:
        """The counts, complete up to the first call."""
        if not self._thread.is_alive():
            return self._most()
        self._client.echo(self._mark)
        self._thread.join(10)
        assert not self._thread.is_alive(), "MONITOR did not deliver the end mark"
        self._client.close()
        return self._most()

    def _most(self) -> Counter[str]:
        most: Counter[str] = Counter()
        for (_, message_id), count in self.count.items():
            most[message_id] = max(most[message_id], count)
        return most

    def _listen(self) -> None:
        patient = redis.Redis.from_url(self._url, protocol=2, socket_timeout=None)
        with patient, patient.monitor() as monitor:
            self._listening.set()
            for seen in monitor.listen():
                command = str(seen["command"])
                if self._mark in command:
                    return
                finished = _FINISHED.match(command)
                if finished is not None:
                    self.count[finished[1], finished[2]] += 1


@dataclass(frozen=True, slots=True)
class Places:
    """Where the messages of a queue are: message ids, one for every copy."""

    ready: list[str]
    in_flight: list[str]
    scheduled: list[str]
    dead: list[str]

    @property
    def all(self) -> Counter[str]:
        """How many copies of each message there are, wherever."""
        return Counter([*self.ready, *self.in_flight, *self.scheduled, *self.dead])


def places(client: redis.Redis, namespace: str, queue: str, levels: int = 10) -> Places:
    """Read the raw keys, as the page on the wire format documents them.

    In one transaction, so that nothing moves meanwhile; a long stream, which no test reads
    before it is at rest, in pages.
    """
    prefix = f"{{{namespace}:{queue}}}"
    streams = [f"{prefix}:ready:{level}" for level in range(levels)]
    long = {stream for stream in streams if client.xlen(stream) > _PAGE}
    with client.pipeline(transaction=True) as pipe:
        for stream in streams:
            pipe.xrange(stream, count=1 if stream in long else None)
        pipe.hkeys(f"{prefix}:scheduled:messages")
        pipe.zrange(f"{prefix}:scheduled", 0, -1)
        pipe.hvals(f"{prefix}:dead:messages")
        pipe.zcard(f"{prefix}:dead")
        *replies, scheduled, due, dead, deaths = pipe.execute()
    assert sorted(scheduled) == sorted(due), "a scheduled message without a time, or the reverse"
    assert len(dead) == deaths, "a dead letter without a time, or the reverse"
    ready: list[str] = []
    in_flight: list[str] = []
    for stream, entries in zip(streams, replies, strict=True):
        held = _held(client, stream) if entries else set()
        for entry_id, fields in _pages(client, stream) if stream in long else entries:
            message_id = fields.get(b"id", b"").decode()
            (in_flight if entry_id in held else ready).append(message_id)
    return Places(ready, in_flight, [i.decode() for i in scheduled], [_id_of(d) for d in dead])


def _pages(client: redis.Redis, stream: str) -> Iterator[Any]:
    start = "-"
    while True:
        page: Any = client.xrange(stream, start, count=_PAGE)
        yield from page
        if len(page) < _PAGE:
            return
        start = "(" + page[-1][0].decode()


def _held(client: redis.Redis, stream: str) -> set[Any]:
    """The entries that a delivery owns; those handed back are ready, not in flight."""
    try:
        pending = client.xpending_range(stream, "workers", "-", "+", 2_000_000)
    except redis.ResponseError:
        return set()  # no group: nothing was ever delivered
    return {p["message_id"] for p in pending if p["consumer"] != b"~released"}


def _id_of(packed: bytes) -> str:
    parts = unpack(packed)
    return (
        dict(zip(parts[::2], parts[1::2], strict=True)).get(b"id", b"").decode("utf-8", "replace")
    )


@dataclass(frozen=True, slots=True)
class Findings:
    """What one check found; a row of the table of faults."""

    injected: int
    acknowledged: int
    lost: int
    #: Losses that the test caused on purpose and that must be reported, part of `lost`.
    given_up: int
    duplicated: int
    finalised_twice: int
    #: From the last injury until the jobs moved on; None where nothing stood still.
    recovered_s: float | None


@dataclass
class History:
    """What producers tried and what they were promised, against what happened."""

    broker: StreamsBroker
    effects: Effects
    finalisations: Finalised | None = None
    attempted: set[str] = field(default_factory=set)
    acknowledged: dict[str, str] = field(default_factory=dict)
    """Message id -> queue, of every enqueue that returned."""
    findings: list[Findings] = field(default_factory=list)
    """What the checks found, the ones that failed included."""
    measured: dict[str, float] = field(default_factory=dict)
    """Figures that the row is about, for the table; the unit is in the name."""
    _injuries: int = 0
    _injured_at: float | None = None
    _recovered_s: float | None = None

    def send(
        self,
        actor: str,
        *args: object,
        queue: str = "work",
        delay: int | None = None,
        **options: object,
    ) -> str:
        """Enqueue a message for an actor of the worker's module; its id."""
        message: Message[None] = Message(
            queue_name=queue, actor_name=actor, args=args, kwargs={}, options=dict(options)
        )
        return self._enqueue(message, delay)

    def insist(self, actor: str, *args: object) -> str:
        """As :meth:`send`, the same message again until the server has acknowledged it."""
        message: Message[None] = Message(
            queue_name="work", actor_name=actor, args=args, kwargs={}, options={}
        )
        while True:
            with suppress(BrokerConnectionError):
                return self._enqueue(message, None)

    def _enqueue(self, message: Message[None], delay: int | None) -> str:
        self.broker.declare_queue(message.queue_name)
        self.attempted.add(message.message_id)
        self.broker.enqueue(message, delay=delay)
        self.acknowledged[message.message_id] = message.queue_name
        return message.message_id

    def send_many(
        self, actor: str, labels: Iterable[object], *, delay: int | None = None
    ) -> list[str]:
        """Enqueue a message for each label, in batches; their ids."""
        self.broker.declare_queue("work")
        messages: list[Message[None]] = [
            Message(queue_name="work", actor_name=actor, args=(label,), kwargs={}, options={})
            for label in labels
        ]
        ids = [message.message_id for message in messages]
        self.attempted.update(ids)
        self.broker.enqueue_many(messages, delay=delay)
        self.acknowledged.update(dict.fromkeys(ids, "work"))
        return ids

    def acknowledge(self, message_ids: Iterable[str]) -> None:
        """Note what another program enqueued and was promised."""
        self.attempted.update(message_ids)
        self.acknowledged.update(dict.fromkeys(message_ids, "work"))

    def injure(self, times: int = 1) -> None:
        """Note an injected failure (or several): now."""
        self._injuries += times
        self._injured_at = time.monotonic()
        self._recovered_s = None

    def recovered(self) -> float:
        """Note that jobs move again; the seconds since the last injury."""
        assert self._injured_at is not None, "nothing was injured"
        self._recovered_s = time.monotonic() - self._injured_at
        return self._recovered_s

    def measure(self, name: str, value: float) -> None:
        """Publish a figure with the row."""
        self.measured[name] = round(value, 3)

    def places(self, queue: str = "work") -> Places:
        """Where the queue's messages are now."""
        return places(self.broker.client, self.broker.namespace, queue)

    def deliveries(self, level: int = 0) -> dict[str, int]:
        """The deliveries that count against each message which was delivered and not settled."""
        stream = f"{{{self.broker.namespace}:work}}:ready:{level}"
        pending: Any = self.broker.client.xpending_range(stream, "workers", "-", "+", 1000)
        entries: Any = self.broker.client.xrange(stream)
        ids = {entry_id: fields[b"id"].decode() for entry_id, fields in entries}
        return {ids[row["message_id"]]: row["times_delivered"] for row in pending}

    def wait_until_blocked(self) -> None:
        """Wait until a worker blocks on the server."""
        eventually(
            lambda: int(self.broker.client.info("clients")["blocked_clients"]),
            lambda blocked: blocked > 0,
            what="a worker that blocks",
        )

    def settle_down(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait until nothing of the queue is ready, scheduled or in flight."""
        eventually(
            lambda: self.broker.inspector.queue("work"),
            lambda info: info.ready + info.scheduled + info.in_flight == 0,
            timeout_s=timeout_s,
            what="an empty queue",
        )

    def executions(self) -> Counter[str]:
        """How often each message was begun."""
        effects = self.effects.catch_up()
        return Counter(e.message_id for e in effects if e.event == "started")

    def finished(self) -> set[str]:
        """The messages whose job reached its end at least once."""
        return {e.message_id for e in self.effects.catch_up() if e.event == "done"}

    def check(
        self,
        *,
        failures: int,
        expected_runs: int = 1,
        given_up: Iterable[str] = (),
        redriven: Iterable[str] = (),
        at_rest: bool = True,
    ) -> None:
        """Hold the invariants.

        Parameters:
          failures: injected failures; each may repeat a job once.
          expected_runs: how often each job runs without any failure (1 and its retries).
          given_up: messages that the test itself took from the server.
          redriven: messages that were buried and sent back: each ends once more.
          at_rest: everything has ended, so nothing may be in flight any more, and the server
            has nothing that would stay for ever.
        """
        executions, finished = self.executions(), self.finished()
        kept: Counter[str] = Counter()
        in_flight: list[str] = []
        for queue in sorted(set(self.acknowledged.values())):
            now = self.places(queue)
            in_flight += now.in_flight
            kept += now.all
        lost = {sent for sent in self.acknowledged if sent not in finished and sent not in kept}
        counts = Counter[str]() if self.finalisations is None else self.finalisations.stop()
        again = set(redriven)
        twice = {sent: count for sent, count in counts.items() if count > 1 + (sent in again)}
        self._find(failures, expected_runs, executions, lost, set(given_up), twice)
        assert not (at_rest and in_flight), f"still in flight: {in_flight}"
        assert lost == set(given_up), f"acknowledged and nowhere: {lost}"
        double = {sent: copies for sent, copies in kept.items() if copies > 1}
        assert not double, f"in more than one place: {double}"
        both = sorted((finished & set(kept)) - set(in_flight))
        assert not both, f"finished and still kept: {both}"
        most = expected_runs + failures
        often = {sent: runs for sent, runs in executions.items() if runs > most}
        assert not often, f"executed more than {most} times: {often}"
        assert not twice, f"finalised more than once: {twice}"
        if self.finalisations is not None:
            gone = (finished & set(self.acknowledged)) - set(kept)
            missing = sorted(sent for sent in gone if not counts[sent])
            assert not missing, f"executed and gone, but never finalised: {missing}"
        if at_rest:
            left = leftovers(self.broker.client, self.broker.namespace)
            assert not left, f"left behind: {left[:10]}"

    def _find(
        self,
        failures: int,
        expected_runs: int,
        executions: Counter[str],
        lost: set[str],
        given_up: set[str],
        twice: dict[str, int],
    ) -> None:
        # Here, before anything is asserted: the table also shows what was violated.
        self.findings.append(
            Findings(
                injected=self._injuries or failures,
                acknowledged=len(self.acknowledged),
                lost=len(lost),
                given_up=len(lost & given_up),
                duplicated=sum(max(0, runs - expected_runs) for runs in executions.values()),
                finalised_twice=len(twice),
                recovered_s=self._recovered_s,
            )
        )
