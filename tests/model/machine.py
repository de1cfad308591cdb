"""A queue's life as a state machine: random steps on a real server, and a model beside it.

One queue, three consumers, every transition. After each step all keys of the queue are read
and compared with the model: each message is in exactly one place, nothing is finalised twice,
counts, owners, records and deduplication keys agree, and no other key is left behind.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from broker.commands import BEGINNING, Commands, Handed, NewMessage, Position, Redriven, Settlement
from broker.delivery import SUSPECT_FROM, Lease
from broker.entry import Fields
from broker.limits import QueueLimit
from broker.outcome import Bury, Done, Outcome, Release, Retry, Settled

QUEUE = "work"
LEVELS = 2
MAX_DELIVERIES = 4
GROUP = "workers"
LEASE_MS = 1_800_000
LONG_MS = 3_600_000

CONSUMERS = ("c1", "c2", "c3")
levels = st.integers(0, LEVELS - 1)
consumers = st.sampled_from(CONSUMERS)
keys = st.sampled_from(["", "", "k1", "k2"])
messages = st.tuples(levels, keys, st.sampled_from([None, None, None, 0, LONG_MS]))
"""Level, deduplication key and delay."""
outcomes = st.sampled_from(["done", "retry", "retry later", "release", "bury"])
picks = st.integers(0, 1_000)
"""A choice among whatever there is: the remainder by its number."""


OPERATIONS = st.sampled_from(
    [
        *["pause", "resume", "resume", "resume", "no limit", "no limit", "one", "two"],
        *["reap", "reap", "purge", "sweep young", "sweep all"],
    ]
)


def step(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(st.just(name), st.tuples(*arguments))


some = st.lists(picks, min_size=1, max_size=4)
fetch = step("fetch", consumers, st.integers(1, 4), st.booleans(), st.integers(0, 1))
send = step("send_new", st.lists(messages, min_size=1, max_size=4))
settle = step("settle", st.lists(st.tuples(picks, outcomes, levels), min_size=1, max_size=4))
#: As often as they stand here.
STEPS = [
    *[send, send, fetch, fetch, fetch, settle, settle],
    step("send_again", picks, messages),
    step("read_as_a_blocked_consumer_does", consumers),
    step("settle_what_was_lost", picks, outcomes),
    step("renew", some),
    step("let_leases_run_out", some),
    step("let_leases_run_out", some),
    step("reclaim", st.integers(1, 5)),
    step("lose_a_consumer", consumers, levels),
    step("redrive", picks, st.booleans()),
    step("operate", OPERATIONS, st.integers(1, 3)),
]


@dataclass
class Copy:
    """A message that is alive or dead; what is finished has none."""

    id: str
    key: str
    level: int
    place: str = "ready"  # ready, scheduled, due, held, released, dead
    count: int = 0
    lease: Lease | None = None
    expired: bool = False


@dataclass
class Model:
    """What must be true."""

    copies: dict[str, Copy] = field(default_factory=dict)
    finished: dict[str, str] = field(default_factory=dict)
    """Id -> token of what is completed and still remembered."""
    tokens: dict[str, str] = field(default_factory=dict)
    """Id -> token of every record."""
    record_keys: dict[str, str] = field(default_factory=dict)
    dedup: dict[str, str] = field(default_factory=dict)
    stale: list[tuple[Lease, str, str]] = field(default_factory=list)
    """Leases that were ended or lost, with message id and key."""
    finalised: dict[str, int] = field(default_factory=dict)
    accepted: dict[str, int] = field(default_factory=dict)
    paused: bool = False
    concurrency: int | None = None

    def at(self, *places: str) -> list[Copy]:
        return [copy for copy in self.copies.values() if copy.place in places]

    @property
    def gated(self) -> bool:
        return self.paused or self.concurrency is not None


class QueueMachine(RuleBasedStateMachine):
    """The steps; `client` is a connection to the server under test."""

    client: Any  # set by the subclass that a test makes for its server

    def __init__(self) -> None:
        super().__init__()
        self.namespace = f"model-{uuid4().hex}"
        self.commands = Commands(self.client, self.namespace, LEVELS - 1)
        self.keys = self.commands.keys(QUEUE)
        self.model = Model()
        self.made = 0

    @rule(step=st.one_of(STEPS))
    def take(self, step: tuple[str, tuple[Any, ...]]) -> None:
        """One step, by name. One rule only: Hypothesis leaves out some rules of a life."""
        name, arguments = step
        getattr(self, name)(*arguments)

    def teardown(self) -> None:
        found = list(self.client.scan_iter(match=f"{{{self.namespace}:*", count=1_000))
        if found:
            self.client.delete(*found)

    # ---- producers

    def fields(self, id: str) -> Fields:
        return ["id", id, "actor", "record", "at", "1", "args", "[]"]

    def token(self) -> str:
        self.made += 1
        return f"t{self.made}"

    def send(self, id: str, level: int, key: str, token: str, delay_ms: int | None) -> str:
        message = NewMessage(id, level, key, False, self.fields(id))
        if delay_ms is None:
            (known,) = self.commands.enqueue(QUEUE, token, [message])
        else:
            (known,) = self.commands.schedule(QUEUE, token, delay_ms, [message])
        return known

    def accept(self, id: str, level: int, key: str, token: str, delay_ms: int | None) -> None:
        """Send a message that is not alive, and expect what its key allows."""
        known = self.send(id, level, key, token, delay_ms)
        holder = self.model.dedup.get(key) if key else None
        if holder is not None and holder != id:
            assert known == holder
            return
        assert known == id
        place = "ready" if delay_ms is None else "due" if delay_ms == 0 else "scheduled"
        self.model.copies[id] = Copy(id, key, level, place)
        self.model.accepted[id] = self.model.accepted.get(id, 0) + 1
        self.model.finished.pop(id, None)
        self.model.tokens[id] = token
        self.model.record_keys[id] = key
        if key:
            self.model.dedup[key] = id

    def send_new(self, sent: list[tuple[int, str, int | None]]) -> None:
        for level, key, delay_ms in sent:
            token = self.token()
            self.accept(f"m{self.made}", level, key, token, delay_ms)

    def send_again(self, pick: int, message: tuple[int, str, int | None]) -> None:
        if not self.model.tokens:
            return
        level, key, delay_ms = message
        id, token = choose(sorted(self.model.tokens.items()), pick)
        assert self.send(id, level, key, token, delay_ms) == id, "the same call again"
        if id in self.model.finished:
            self.accept(id, level, key, self.token(), delay_ms)
        elif self.model.copies.get(id) in self.alive():
            assert self.send(id, level, key, self.token(), delay_ms) == id

    def alive(self) -> list[Copy]:
        return self.model.at("ready", "scheduled", "due", "held", "released")

    # ---- workers

    def fetch(self, consumer: str, count: int, lowest: bool, suspects: int) -> None:
        model = self.model
        fetched = self.commands.fetch(
            QUEUE, consumer, count, lowest_first=lowest, suspects=suspects, signals=[]
        )
        assert fetched.gated == model.gated
        if model.paused:
            assert fetched.deliveries == []
            return
        for copy in model.at("due"):
            copy.place = "ready"
        room = count
        if model.concurrency is not None:
            room = min(count, max(0, model.concurrency - len(model.at("held"))))
        taken = [self.hand_over(handed, consumer) for handed in fetched.deliveries]
        assert len(taken) <= room
        assert sum(copy.count >= SUSPECT_FROM for copy in taken) <= suspects
        steps = [copy.level for copy in taken]
        assert steps == sorted(steps, reverse=not lowest)
        left = model.at("ready")
        if suspects > sum(copy.count >= SUSPECT_FROM for copy in taken):
            left += model.at("released")
        else:
            left += [c for c in model.at("released") if c.count + 1 < SUSPECT_FROM]
        assert len(taken) == room or not left, "it left something that it could have handed over"
        for copy in taken if lowest else ():
            assert all(other.level >= copy.level for other in left)
        for copy in () if lowest else taken:
            assert all(other.level <= copy.level for other in left)

    def hand_over(self, handed: Handed, consumer: str) -> Copy:
        copy = self.model.copies[handed.fields[1].decode()]
        assert copy.place in ("ready", "released"), f"{copy} was handed over twice"
        assert (handed.lease.consumer, handed.lease.level) == (consumer, copy.level)
        assert handed.lease.count == copy.count + 1
        copy.place, copy.count, copy.lease, copy.expired = (
            "held",
            copy.count + 1,
            handed.lease,
            False,
        )
        return copy

    def read_as_a_blocked_consumer_does(self, consumer: str) -> None:
        streams = dict.fromkeys(self.keys.ready, ">")
        for stream in streams:  # a consumer has fetched before, so the groups are there
            with suppress(redis.ResponseError):
                self.client.xgroup_create(stream, GROUP, "0", mkstream=True)
        for stream, entries in self.client.xreadgroup(GROUP, consumer, streams, count=1) or []:
            level = self.keys.ready.index(stream.decode())
            for entry_id, fields in entries:
                lease = Lease(level, entry_id, 1, consumer)
                flat = [part for pair in fields.items() for part in pair]
                copy = self.hand_over(Handed(lease, flat), consumer)
                if self.model.gated:
                    self.end(copy, Release())

    def settle(self, ends: list[tuple[int, str, int]]) -> None:
        for pick, outcome, level in ends:
            held = self.model.at("held")
            if held:
                copy = choose(held, pick)
                self.end(copy, self.outcome(outcome, copy.id, level))

    def outcome(self, name: str, id: str, level: int) -> Outcome:
        fields = self.fields(id)
        made: dict[str, Outcome] = {
            "done": Done(),
            "retry": Retry(0, level, fields),
            "retry later": Retry(LONG_MS, level, fields),
            "release": Release(),
            "bury": Bury("failed", "on purpose", fields),
        }
        return made[name]

    def end(self, copy: Copy, outcome: Outcome) -> None:
        lease = copy.lease
        assert lease is not None
        settled = self.commands.settle(QUEUE, [Settlement(lease, copy.id, copy.key, outcome)])
        assert settled == [Settled.OK]
        self.forget_lease(copy)
        model = self.model
        match outcome:
            case Done():
                del model.copies[copy.id]
                model.finished[copy.id] = model.tokens[copy.id]
                self.finalise(copy)
            case Retry(delay_ms, level, _):
                copy.place, copy.count = ("scheduled" if delay_ms else "ready"), 0
                copy.level = level
            case Release():
                copy.place, copy.count = "released", copy.count - 1
            case Bury():
                copy.place = "dead"
                self.finalise(copy)

    def forget_lease(self, copy: Copy) -> None:
        assert copy.lease is not None
        self.model.stale.append((copy.lease, copy.id, copy.key))
        copy.lease = None

    def finalise(self, copy: Copy) -> None:
        """An end for good, until somebody sends or redrives it."""
        self.model.finalised[copy.id] = self.model.finalised.get(copy.id, 0) + 1
        assert self.model.finalised[copy.id] <= self.model.accepted[copy.id]
        if copy.key and self.model.dedup.get(copy.key) == copy.id:
            del self.model.dedup[copy.key]

    def settle_what_was_lost(self, pick: int, outcome: str) -> None:
        if not self.model.stale:
            return
        lease, id, key = choose(self.model.stale, pick)
        if any(copy.lease == lease for copy in self.model.at("held")):
            return  # released and taken again by the same consumer: its own lease, ADR 3
        made = self.outcome(outcome, id, 0)
        (settled,) = self.commands.settle(QUEUE, [Settlement(lease, id, key, made)])
        assert settled is not Settled.OK

    def renew(self, some: list[int]) -> None:
        held = [copy.lease for copy in self.model.at("held") if copy.lease is not None]
        known = held + [lease for lease, _, _ in self.model.stale[-5:] if lease not in held]
        asked = list({choose(known, pick) for pick in some} if known else ())
        assert sorted(self.commands.renew(QUEUE, asked), key=str) == sorted(
            (lease for lease in asked if lease not in held), key=str
        )
        for copy in self.model.at("held"):
            if copy.lease in asked:
                copy.expired = False

    # ---- the keeper

    def let_leases_run_out(self, some: list[int]) -> None:
        for pick in some if self.model.at("held") else ():
            self.let_run_out(choose(self.model.at("held"), pick))

    def let_run_out(self, copy: Copy) -> None:
        assert copy.lease is not None
        self.client.xclaim(
            self.keys.ready[copy.level],
            GROUP,
            copy.lease.consumer,
            0,
            [copy.lease.entry_id],
            idle=LEASE_MS * 2,
            retrycount=copy.count,
            justid=True,
        )
        copy.expired = True

    def reclaim(self, limit: int) -> None:
        expired = [copy for copy in self.model.at("held") if copy.expired]
        released = buried = 0
        position: Position | None = BEGINNING
        while position is not None:
            done = self.commands.reclaim(QUEUE, LEASE_MS, MAX_DELIVERIES, limit, position)
            released, buried, position = (
                released + done.released,
                buried + done.buried,
                done.position,
            )
        assert (released, buried) == self.take_back(expired)

    def lose_a_consumer(self, consumer: str, level: int) -> None:
        held = [
            copy
            for copy in self.model.at("held")
            if copy.lease is not None and (copy.lease.consumer, copy.level) == (consumer, level)
        ]
        done = self.commands.reclaim_consumer(QUEUE, level, consumer, MAX_DELIVERIES, 100)
        assert done == self.take_back(held)

    def take_back(self, copies: Iterable[Copy]) -> tuple[int, int]:
        released = buried = 0
        for copy in copies:
            self.forget_lease(copy)
            if copy.count >= MAX_DELIVERIES:
                copy.place = "dead"
                self.finalise(copy)
                buried += 1
            else:
                copy.place = "released"
                released += 1
        return released, buried

    # ---- operators

    def operate(self, what: str, limit: int) -> None:
        match what:
            case "pause":
                assert self.commands.pause(QUEUE) is not self.model.paused
                self.model.paused = True
            case "resume":
                assert self.commands.resume(QUEUE) is self.model.paused
                self.model.paused = False
            case "no limit" | "one" | "two":
                self.limit({"no limit": None, "one": 1, "two": 2}[what])
            case "reap":
                self.commands.reap(QUEUE, 0)
            case "purge":
                self.purge(limit)
            case _:
                self.sweep(0 if what == "sweep all" else LONG_MS)

    def limit(self, concurrency: int | None) -> None:
        changed = self.commands.limit(QUEUE, QueueLimit(concurrency))
        assert changed is (concurrency != self.model.concurrency)
        self.model.concurrency = concurrency

    def redrive(self, pick: int, twice: bool) -> None:
        if not self.model.at("dead"):
            return
        copy = choose(self.model.at("dead"), pick)
        letter = Redriven(copy.id, copy.id, copy.level, copy.key, self.fields(copy.id))
        assert self.commands.redrive(QUEUE, [letter] * (1 + twice)) == 1
        model = self.model
        copy.place, copy.count = "ready", 0
        model.accepted[copy.id] += 1
        model.tokens[copy.id] = "redrive"
        model.record_keys[copy.id] = ""
        if copy.key and copy.key not in model.dedup:
            model.dedup[copy.key] = copy.id
            model.record_keys[copy.id] = copy.key

    def purge(self, limit: int) -> None:
        dropped = 0
        while step := self.commands.purge(QUEUE, limit):
            dropped += step
        gone = self.alive()
        assert dropped == len(gone)
        for copy in gone:
            if copy.lease is not None:
                self.forget_lease(copy)
            del self.model.copies[copy.id]
            key = self.model.record_keys.pop(copy.id)
            if key and self.model.dedup.get(key) == copy.id:
                del self.model.dedup[key]
            del self.model.tokens[copy.id]

    def sweep(self, age_ms: int) -> None:
        dead = self.model.at("dead")
        dropped = self.commands.sweep(QUEUE, age_ms, 100)
        assert dropped == (len(dead) if age_ms == 0 else 0)
        for copy in dead if dropped else ():
            del self.model.copies[copy.id]

    # ---- what must hold after every step

    @invariant()
    def every_message_is_in_its_one_place(self) -> None:
        model = self.model
        for level, stream in enumerate(self.keys.ready):
            here = [c for c in model.at("ready", "held", "released") if c.level == level]
            entries = [fields[b"id"].decode() for _, fields in self.client.xrange(stream)]
            assert sorted(entries) == sorted(copy.id for copy in here)
            assert self.pending(stream) == sorted(
                (copy.lease.consumer if copy.lease else "~released", copy.count)
                for copy in here
                if copy.place != "ready"
            )
        scheduled = {copy.id for copy in model.at("scheduled", "due")}
        dead = {copy.id for copy in model.at("dead")}
        for index, values, expected in (
            (self.keys.scheduled, self.keys.scheduled_messages, scheduled),
            (self.keys.dead, self.keys.dead_messages, dead),
        ):
            assert {id.decode() for id in self.client.zrange(index, 0, -1)} == expected
            assert {id.decode() for id in self.client.hkeys(values)} == expected

    def pending(self, stream: str) -> list[tuple[str, int]]:
        if not self.client.exists(stream) or not self.client.xinfo_groups(stream):
            return []
        rows = self.client.xpending_range(stream, GROUP, "-", "+", 1_000)
        return sorted((row["consumer"].decode(), row["times_delivered"]) for row in rows)

    @invariant()
    def records_and_deduplication_keys_agree(self) -> None:
        model = self.model
        dedup = self.client.hgetall(self.keys.dedup)
        assert {key.decode(): id.decode() for key, id in dedup.items()} == model.dedup
        prefix = self.keys.job_prefix
        names = self.client.scan_iter(match=f"{prefix}*", count=1_000)
        ids = {name.decode().removeprefix(prefix) for name in names}
        assert ids == set(model.tokens)
        for id in ids:
            record = self.client.hgetall(prefix + id)
            assert record[b"token"].decode() == model.tokens[id]
            copy = model.copies.get(id)
            living = copy is not None and copy.place != "dead"
            assert (b"state" not in record) is living, f"{id}: {record}"
            assert (self.client.pttl(prefix + id) == -1) is living

    @invariant()
    def the_inspector_counts_right_and_no_other_key_is_there(self) -> None:
        model = self.model
        info = self.commands.inspect(QUEUE)
        assert info.ready == len(model.at("ready", "released"))
        assert info.in_flight == len(model.at("held"))
        assert info.scheduled == len(model.at("scheduled", "due"))
        assert info.due == len(model.at("due"))
        assert info.dead == len(model.at("dead"))
        assert info.paused is model.paused
        known = {
            *self.keys.ready,
            *(self.keys.wake, self.keys.control, self.keys.dedup, self.keys.scheduled),
            *(self.keys.scheduled_messages, self.keys.dead, self.keys.dead_messages),
        }
        for name in self.client.scan_iter(match=f"{{{self.namespace}:*", count=1_000):
            assert name.decode() in known or name.decode().startswith(self.keys.job_prefix)
        assert self.client.xlen(self.keys.wake) <= 64


def choose(items: list[Any], pick: int) -> Any:
    """One of them, by its number."""
    return items[pick % len(items)]
