"""A queue's life as a state machine: random steps on a real server, and a model beside it.

One queue, three consumers, every transition. Each command must answer what the model says.
After each step all keys of the queue are read and compared with the model: each copy of a
message is in exactly one place, owners and counts agree, a record lives as long as its
message and a deduplication key as long as its holder, the inspector counts the same, blocked
consumers are signalled, and no other key is left behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Any
from uuid import uuid4

import pytest
import redis
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from broker import StreamsBroker, packing
from broker.commands import BEGINNING, Commands, Handed, Position
from broker.delivery import Lease
from broker.entry import Fields
from broker.errors import QueueFull
from broker.keys import GROUP
from broker.letter_commands import Redriven
from broker.limits import QueueLimit
from broker.new_message import Claim, NewMessage
from broker.outcome import Bury, Cancel, Done, Outcome, Park, Release, Retry, Settled
from broker.settlement import Settlement
from tests.model.model import LIVE, SIGNALS_KEPT, Copy, Expected, Model, Place
from tests.model.snapshot import Snapshot, read

QUEUE = "work"
LEVELS = 2
MAX_DELIVERIES = 3
LEASE_MS = 1_800_000
SOON_MS = 1
LONG_MS = 3_600_000
FACTS = ["actor", "act", "attempts", "1"]
"""Later than any life of a queue ends; also the period of a rate, so that no token comes back."""

CONSUMERS = ("c1", "c2", "c3")
DELAYS = {"now": None, "at once": 0, "soon": SOON_MS, "later": LONG_MS}
LIMITS = {
    "no limit": QueueLimit(),
    "one at a time": QueueLimit(1),
    "two at a time": QueueLimit(2),
    "three an hour": QueueLimit(rate=3, per_ms=LONG_MS),
    "one at a time, three an hour": QueueLimit(1, 3, LONG_MS),
}

levels = st.integers(0, LEVELS - 1)
consumers = st.sampled_from(CONSUMERS)
claimants = st.sampled_from(["", *CONSUMERS])
"""Who is to bury what was delivered too often; without one the script does so."""
keys = st.sampled_from(["", "", "", "", "k1", "k2"])
delays = st.sampled_from(["now", "now", "now", "now", "at once", "soon", "later"])
messages = st.tuples(levels, keys)
bounds = st.sampled_from([0, 0, 0, 2, 6])
"""How many messages the producer's queue may hold; 0 is any number."""
outcomes = st.sampled_from(
    [
        *("done", "done", "retry", "retry soon", "retry later", "retry later"),
        *("park soon", "park later", "release", "bury", "bury", "cancel"),
    ]
)
picks = st.integers(0, 1_000)
"""A choice among whatever there is: the remainder by its number."""
ends = st.tuples(picks, outcomes, levels)
some = st.lists(picks, min_size=1, max_size=4)
limits = st.integers(1, 5)
OPERATIONS = ["pause", "resume", "resume", "resume", "no limit", "no limit", "no limit", *LIMITS]

#: Name of a step -> how often it is taken, and its arguments.
STEPS: dict[str, tuple[int, tuple[st.SearchStrategy[Any], ...]]] = {
    "send_new": (5, (st.lists(messages, min_size=1, max_size=8), delays, bounds)),
    "send_again": (5, (picks, messages, delays, st.booleans(), bounds)),
    "repeat_the_last_call": (1, ()),
    "send_from_another_language": (2, (levels, st.booleans())),
    "fetch": (
        9,
        (consumers, st.integers(1, 8), st.booleans(), st.sampled_from([1, 1, 2, 0]), st.booleans()),
    ),
    "read_as_a_blocked_consumer_does": (2, (consumers,)),
    "settle": (6, (st.lists(ends, min_size=1, max_size=5),)),
    "settle_beside_a_successor": (2, (picks, delays, outcomes)),
    "settle_until_one_fails": (3, (consumers, st.lists(ends, min_size=2, max_size=6), picks)),
    "settle_what_was_lost": (4, (picks, outcomes)),
    "renew": (3, (some, st.booleans())),
    "let_leases_run_out": (2, (some,)),
    "reclaim": (1, (limits, claimants)),
    "lose_leases": (6, (some, limits, claimants)),
    "lose_worker_after_worker": (
        3,
        (consumers, st.lists(picks, max_size=4), st.booleans(), limits, claimants),
    ),
    "lose_a_consumer": (2, (consumers, levels, limits)),
    "redrive": (2, (some,)),
    "cancel": (2, (picks,)),
    "operate": (3, (st.sampled_from(OPERATIONS),)),
    "reap": (1, ()),
    "purge": (1, (limits,)),
    "sweep": (1, (st.booleans(), limits)),
}
step = st.sampled_from([name for name, (often, _) in STEPS.items() for _ in range(often)]).flatmap(
    lambda name: st.tuples(st.just(name), *STEPS[name][1])
)


class QueueMachine(RuleBasedStateMachine):
    """The steps; `client` is a connection to the server under test."""

    client: Any  # set by the subclass that a test makes for its server

    def __init__(self) -> None:
        super().__init__()
        self.namespace = f"model-{uuid4().hex}"
        self.commands = Commands(self.client, self.namespace, LEVELS - 1)
        broker = StreamsBroker(
            client=self.client, namespace=self.namespace, max_priority=LEVELS - 1
        )
        self.inspector = broker.inspector
        self.keys = self.commands.keys(QUEUE)
        self.model = Model(MAX_DELIVERIES)
        self.made = 0
        self.seen = read(self.client, self.keys)
        #: The last call of a producer: token, delay, messages and the queue's bound.
        self.last_call: tuple[str, str, list[NewMessage], int] | None = None
        #: Every lease that a consumer ever had, with the message's id and key.
        self.leases: list[tuple[Lease, str, str]] = []
        self.read_signals: dict[str, list[bytes]] = {}
        #: What a consumer has got since its last fetch, and no record was told of.
        self.read_entries: dict[str, list[Handed]] = {}

    @rule(step=step)
    def take(self, step: tuple[Any, ...]) -> None:
        """One step, by name. One rule only: Hypothesis leaves out some rules of a life."""
        name, *arguments = step
        getattr(self, name)(*arguments)
        self.compare()

    def teardown(self) -> None:
        if found := self.client.keys(f"*{self.namespace}*"):
            self.client.delete(*found)

    # ---- producers

    def number(self) -> int:
        self.made += 1
        return self.made

    def fields(self, id: str) -> Fields:
        """An entry's fields, unlike any other's."""
        return ["id", id, "actor", "record", "at", str(self.number()), "args", "[]"]

    def send(self, token: str, delay: str, sent: list[NewMessage], most: int) -> None:
        self.last_call = token, delay, sent, most
        delay_ms = DELAYS[delay]
        if self.model.refuses(token, sent, most):
            note(f"  {token}: {delay} {[m.message_id for m in sent]} are too many for {most}")
            with pytest.raises(QueueFull) as full:
                self.call(token, delay_ms, sent, most)
            assert full.value.depth == len(self.model.at(*LIVE))
            return
        known = self.call(token, delay_ms, sent, most)
        if delay_ms is None:
            assert known == self.model.enqueue(token, sent)
        else:
            assert known == self.model.schedule(token, delay != "later", sent)
            self.pass_time(delay_ms)
        note(f"  {token}: {delay} {[m.message_id for m in sent]} -> {known}")

    def call(
        self, token: str, delay_ms: int | None, sent: list[NewMessage], most: int
    ) -> list[str]:
        if delay_ms is None:
            return self.commands.enqueue(QUEUE, token, sent, max_depth=most)
        return self.commands.schedule(QUEUE, token, delay_ms, sent, max_depth=most)

    def pass_time(self, delay_ms: int) -> None:
        """Until the server's clock has passed a short delay; the long ones never come due."""
        end = self.now_ms() + delay_ms
        while delay_ms == SOON_MS and self.now_ms() < end:
            pass  # a millisecond: a few round trips

    def now_ms(self) -> int:
        seconds, micros = self.client.time()
        return int(seconds) * 1_000 + int(micros) // 1_000

    def new(self, id: str, level: int, key: str, *, successor: bool = False) -> NewMessage:
        """Two of three are recorded; of two keys one has a time."""
        claim = Claim(key, LONG_MS if key == "k2" else 0) if key else None
        recorded = self.number() % 3 > 0
        return NewMessage(id, "act", level, claim, successor, recorded, self.fields(id))

    def send_new(self, sent: list[tuple[int, str]], delay: str, most: int) -> None:
        ids = [f"m{self.number()}" for _ in sent]
        made = [self.new(id, level, key) for id, (level, key) in zip(ids, sent, strict=True)]
        self.send(f"t{self.number()}", delay, made, most)

    def send_again(
        self, pick: int, message: tuple[int, str], delay: str, successor: bool, most: int
    ) -> None:
        """A message that was there before: alive, finished or dead; a worker's own copy of it."""
        known = [*(copy.id for copy in self.model.copies), *self.model.records]
        running = [copy.id for copy in self.model.at(Place.HELD)]
        latest = list(dict.fromkeys(id for id in reversed(known) if id))[:6]
        if ids := [id for id in running if id] if successor and running else latest:
            id, (level, key) = choose(ids, pick), message
            made = self.new(id, level, key, successor=successor)
            self.send(f"t{self.number()}", delay, [made], most)

    def repeat_the_last_call(self) -> None:
        """A client repeats it when the reply was lost."""
        if self.last_call is not None:
            self.send(*self.last_call)

    def send_from_another_language(self, level: int, readable: bool) -> None:
        id = f"x{self.number()}" if readable else ""
        fields: Fields = self.fields(id) if readable else ["junk", str(self.number())]
        flat = [str(part) for part in fields]
        self.client.xadd(self.keys.ready[level], dict(zip(flat[::2], flat[1::2], strict=True)))
        self.model.write_directly(id, level, fields)

    # ---- workers

    def fetch(
        self, consumer: str, count: int, lowest: bool, suspects: int, tell: bool = True
    ) -> None:
        model = self.model
        closed = model.tokens == 0
        taken = self.read_entries.pop(consumer, [])
        for one in taken:
            there = (one.lease.level, one.lease.entry_id, consumer)
            for copy in model.at(Place.HELD):
                if copy.lease and (copy.level, copy.entry_id, copy.lease.consumer) == there:
                    model.note_started(copy)
        expected = model.fetch(consumer, count, lowest, suspects, LEVELS, list(self.seen.scheduled))
        fetched = self.commands.fetch(
            QUEUE,
            consumer,
            count,
            lowest_first=lowest,
            suspects=suspects,
            taken=taken,
            tell=tell,
            signals=self.read_signals.pop(consumer, []),
        )
        self.hand_over(consumer, fetched.deliveries, expected)
        # A worker that takes ahead tells of first deliveries later, or by their settlements.
        for due in expected:
            if tell or due.count > 1:
                model.note_started(due.copy)
        if not tell:
            self.read_entries[consumer] = [d for d in fetched.deliveries if d.lease.count == 1]
        assert fetched.gated is model.gated
        waits = not model.paused and (closed or bool(model.at(Place.SCHEDULED)))
        assert (fetched.due_in_ms is not None) is waits
        assert fetched.due_in_ms is None or fetched.due_in_ms <= LONG_MS

    def hand_over(self, consumer: str, handed: list[Handed], expected: list[Expected]) -> None:
        for one, due in zip(handed, expected, strict=False):
            note(f"  {consumer} gets {due.copy.id or 'junk'} #{one.lease.count}")
        assert [
            (one.lease.consumer, one.lease.level, one.lease.count, one.fields) for one in handed
        ] == [(consumer, one.level, one.count, as_bytes(one.fields)) for one in expected]
        for one, due in zip(handed, expected, strict=True):
            self.model.hand_over(due.copy, one.lease)
            self.leases.append((one.lease, due.copy.id, due.copy.key))

    def read_as_a_blocked_consumer_does(self, consumer: str) -> None:
        """It reads what an empty fetch would let it block on; a gated one reads signals alone."""
        self.fetch(consumer, 1, False, 0)
        streams = [self.keys.wake] if self.model.gated else [*self.keys.ready, self.keys.wake]
        try:
            reply = self.client.xreadgroup(GROUP, consumer, dict.fromkeys(streams, ">"), count=1)
        except redis.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            return  # its fetches never came away empty: it fetches again
        handed = []
        for stream, entries in reply:
            for entry_id, fields in entries:
                if stream.decode() == self.keys.wake:
                    self.read_signals.setdefault(consumer, []).append(entry_id)
                    continue
                lease = Lease(self.keys.ready.index(stream.decode()), entry_id, 1, consumer)
                handed.append(Handed(lease, [part for pair in fields.items() for part in pair]))
        expected = [] if self.model.gated else self.model.read_blocked(LEVELS)
        self.hand_over(consumer, handed, expected)
        self.read_entries[consumer] = handed

    def settle(self, ends: list[tuple[int, str, int]]) -> None:
        """In one batch; what is named twice is settled once."""
        if chosen := self.chosen(ends):
            self.end(chosen)

    def chosen(self, ends: list[tuple[int, str, int]]) -> list[Settlement]:
        held = self.model.at(Place.HELD)
        chosen = [(choose(held, pick), outcome, level) for pick, outcome, level in ends if held]
        return [
            Settlement(c.lease, c.id, c.key, self.outcome(outcome, c, level), FACTS)
            for c, outcome, level in chosen
            if c.lease is not None
        ]

    def settle_beside_a_successor(self, pick: int, delay: str, outcome: str) -> None:
        """A job sends its own message again, and then ends."""
        if held := [copy for copy in self.model.at(Place.HELD) if copy.id and copy.lease]:
            copy = choose(held, pick)
            made = self.new(copy.id, 0, "", successor=True)
            self.send(f"t{self.number()}", delay, [made], 0)
            self.compare()
            end = self.outcome(outcome, copy, 0)
            self.end([Settlement(copy.lease, copy.id, copy.key, end, FACTS)])

    def settle_until_one_fails(
        self, consumer: str, ends: list[tuple[int, str, int]], pick: int
    ) -> None:
        """A batch, of which one message's record can't be read: it and what follows stays held."""
        self.operate("resume")
        self.send_new([(0, ""), (1, "")], "now", 0)
        self.fetch(consumer, 6, False, 1)
        batch = self.chosen(ends)
        named = [settlement.message_id for settlement in batch if settlement.message_id]
        if not named:
            return
        spoilt = choose(named[1:] or named, pick)
        ended = list(takewhile(lambda settlement: settlement.message_id != spoilt, batch))
        note(f"  {[s.message_id for s in ended]} end, {spoilt} does not")
        record = self.keys.job_prefix + spoilt
        before, ttl_ms = self.client.dump(record), max(0, self.client.pttl(record))
        self.client.delete(record)
        self.client.set(record, "no hash")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            self.commands.settle(QUEUE, batch)
        self.client.delete(record)
        if before is not None:
            self.client.restore(record, ttl_ms, before)
        self.model.settle(ended)
        self.pass_short_delays(ended)

    def end(self, settlements: list[Settlement]) -> None:
        replies = self.commands.settle(QUEUE, settlements)
        for each, reply in zip(settlements, replies, strict=True):
            end = f"{type(each.outcome).__name__.lower()} {reply.name}"
            note(f"  {each.lease.consumer}: {each.message_id} #{each.lease.count} {end}")
        for each, reply, expected in zip(
            settlements, replies, self.model.settle(settlements), strict=True
        ):
            # Of a copy that outlived a purge, evidence of a lost lease makes the record anew.
            is_made_anew = expected is Settled.LOST and each.message_id in self.model.uncounted
            assert reply is expected or (is_made_anew and reply is Settled.GONE)
        self.pass_short_delays(settlements)

    def pass_short_delays(self, settlements: list[Settlement]) -> None:
        delayed = [s.outcome for s in settlements if isinstance(s.outcome, Retry | Park)]
        if any(outcome.delay_ms == SOON_MS for outcome in delayed):
            self.pass_time(SOON_MS)

    def outcome(self, name: str, copy: Copy, level: int) -> Outcome:
        if not copy.id and name.startswith(("retry", "park", "cancel")):
            name = "bury"  # what can't be read is only ever buried or released
        fields = self.fields(copy.id) if copy.id else copy.fields
        made: dict[str, Outcome] = {
            "done": Done(),
            "retry": Retry(0, level, fields),
            "retry soon": Retry(SOON_MS, level, fields),
            "retry later": Retry(LONG_MS, level, fields),
            "park soon": Park(SOON_MS),
            "park later": Park(LONG_MS),
            "release": Release(),
            "cancel": Cancel(),
            "bury": Bury("rejected", "on purpose"),
        }
        return made[name]

    def settle_what_was_lost(self, pick: int, outcome: str) -> None:
        """A zombie's end of a delivery that was ended or taken from it."""
        lost = [each for each in self.leases if self.model.owner(each[0]) is None]
        if lost:  # its own again, when it released and took it: ADR 3
            lease, id, key = choose((pick % 4 and self.taken()) or lost, pick)
            made = self.outcome(outcome, Copy(id, key, ["junk", "0"], lease.level), lease.level)
            self.end([Settlement(lease, id, key, made, FACTS)])

    def renew(self, some: list[int], late: bool) -> None:
        """What is held, perhaps just before it would be reclaimed, and what was lost."""
        held = self.model.at(Place.HELD)
        if late and held:
            self.let_run_out({choose(held, pick) for pick in some})
        known = [copy.lease for copy in held if copy.lease] + [each[0] for each in self.taken()]
        asked = list({choose(known, pick) for pick in some} if known else ())
        assert self.commands.renew(
            QUEUE, [(lease, "") for lease in asked]
        ).lost == self.model.renew(asked)

    def taken(self) -> list[tuple[Lease, str, str]]:
        """Leases that were lost, of entries that are held or released now."""
        there = {(c.level, c.entry_id) for c in self.model.at(Place.HELD, Place.RELEASED)}
        return [
            each
            for each in self.leases
            if (each[0].level, each[0].entry_id) in there and self.model.owner(each[0]) is None
        ]

    # ---- the keeper

    def let_leases_run_out(self, some: list[int]) -> None:
        there = self.model.at(Place.HELD, Place.RELEASED)
        self.let_run_out({choose(there, pick) for pick in some} if there else ())

    def let_run_out(self, copies: Iterable[Copy]) -> None:
        """As if a lease's time had passed, which the server is told with XCLAIM IDLE."""
        for copy in copies:
            note(f"  {copy} is left alone")
            owner = copy.lease.consumer if copy.lease else "~released"
            self.client.xclaim(
                self.keys.ready[copy.level],
                GROUP,
                owner,
                0,
                [copy.entry_id],
                idle=LEASE_MS * 2,
                retrycount=copy.count,
                justid=True,
            )
            copy.idle = True

    def reclaim(self, limit: int, claimant: str) -> None:
        """A whole scan in bounded calls; a claimant gets what somebody is told of."""
        released, buried, doomed = 0, 0, []
        position: Position | None = BEGINNING
        while position is not None:
            done = self.commands.reclaim(
                *(QUEUE, LEASE_MS, MAX_DELIVERIES, limit, position),
                claimant=claimant,
                told_of=["record"] if claimant else [],
            )
            released, buried = released + done.released, buried + done.ended
            doomed += [(each.lease, each.message_id) for each in done.doomed]
            position = done.position
        note(f"  {released} released, {buried} buried, {len(doomed)} {claimant}'s to bury")
        *counts, left = self.model.reclaim(claimant)
        assert [released, buried] == counts
        assert sorted(doomed, key=str) == sorted(((c.lease, c.id) for c in left), key=str)
        self.leases += [(lease, copy.id, copy.key) for copy in left if (lease := copy.lease)]

    def lose_leases(self, some: list[int], limit: int, claimant: str) -> None:
        self.let_leases_run_out(some)
        self.reclaim(limit, claimant)

    def lose_worker_after_worker(
        self, consumer: str, lost: list[int], ahead: bool, limit: int, claimant: str
    ) -> None:
        """Some job kills them; one of those that are taken with it may be cancelled or parked."""
        for pick in lost:
            self.fetch(consumer, 8, False, 1, tell=not ahead)
            self.compare()
            if pick % 3 == 1:
                self.cancel(pick)
            elif pick % 3 == 2:
                self.settle([(pick, "park soon", 0)])
            self.let_run_out(self.model.at(Place.HELD))
            self.reclaim(limit, claimant)
            self.compare()

    def lose_a_consumer(self, consumer: str, level: int, limit: int) -> None:
        released = buried = 0
        while True:
            done = self.commands.reclaim_consumer(QUEUE, level, consumer, MAX_DELIVERIES, limit)
            assert sum(done) <= limit
            if not any(done):
                break
            released, buried = released + done[0], buried + done[1]
        note(f"  {released} released, {buried} buried")
        assert (released, buried) == self.model.reclaim_consumer(level, consumer)

    def reap(self) -> None:
        self.commands.reap(QUEUE, 0)
        self.read_signals.clear()  # they went with their readers
        self.model.readers.clear()

    # ---- operators

    def operate(self, what: str) -> None:
        if what == "pause":
            assert self.commands.pause(QUEUE) is self.model.pause()
        elif what == "resume":
            assert self.commands.resume(QUEUE) is self.model.resume()
        else:
            bounds = LIMITS[what]
            assert self.commands.limit(QUEUE, bounds) is self.model.limit(bounds)

    def redrive(self, some: list[int]) -> None:
        """Letters by name; one named twice goes once."""
        dead = self.model.at(Place.DEAD)
        if dead:
            chosen = [choose(dead, pick) for pick in some]
            fields = [self.fields(copy.id) if copy.id else copy.fields for copy in chosen]
            letters = [
                Redriven(c.letter, c.id, c.level, c.evidence["dedup"], new)
                for c, new in zip(chosen, fields, strict=True)
            ]
            note(f"  letters {[letter.key for letter in letters]}")
            assert self.commands.redrive(QUEUE, letters) == self.model.redrive(chosen, fields)

    def purge(self, limit: int) -> None:
        expected = self.model.purge(limit, LEVELS, list(self.seen.scheduled))
        assert self.commands.purge(QUEUE, limit) == expected

    def sweep(self, old: bool, limit: int) -> None:
        """Nothing is old enough to be swept but by an age of 0."""
        expected = 0 if old else self.model.sweep(limit, list(self.seen.dead))
        assert self.commands.sweep(QUEUE, LONG_MS if old else 0, None, limit) == expected

    def cancel(self, pick: int) -> None:
        """A job that is there once, or was; by its id."""
        ids = {copy.id for copy in self.model.at(*LIVE) if copy.id} | self.model.records.keys()
        records = self.model.records
        several = {id for id in ids if id in records and records[id].several}
        known = [id for id in ids if id not in self.model.uncounted | several]
        if known:
            id = choose(sorted(known), pick)
            reply = self.commands.cancel(QUEUE, id)
            note(f"  cancel {id}: {reply}")
            assert reply == self.model.cancel(id)

    # ---- what must hold after every step

    def compare(self) -> None:
        before, self.seen = self.seen, read(self.client, self.keys)
        for level in range(LEVELS):
            self.entries_and_owners_agree(level)
        self.scheduled_agree()
        self.dead_agree()
        self.records_and_keys_agree()
        self.signals_were_given(before)
        self.counts_agree()
        self.no_other_key_is_there()

    def entries_and_owners_agree(self, level: int) -> None:
        expected = self.model.stream(level)
        found = self.seen.entries[level]
        assert [fields for _, fields in found] == [as_bytes(copy.fields) for copy in expected]
        owners = {}
        for copy, (entry_id, _) in zip(expected, found, strict=True):
            assert copy.entry_id in (b"", entry_id)
            copy.entry_id = entry_id
            if copy.place is not Place.READY:
                owners[entry_id] = (copy.lease.consumer if copy.lease else "~released", copy.count)
        assert self.seen.owners[level] == owners

    def scheduled_agree(self) -> None:
        expected = {copy.id: packed(copy) for copy in self.model.at(Place.SCHEDULED)}
        assert len(expected) == len(self.model.at(Place.SCHEDULED))
        assert self.seen.scheduled_messages == expected
        assert self.seen.scheduled.keys() == expected.keys()

    def dead_agree(self) -> None:
        expected = {copy.letter: copy for copy in self.model.at(Place.DEAD)}
        assert len(expected) == len(self.model.at(Place.DEAD))
        assert self.seen.dead.keys() == self.seen.dead_messages.keys() == expected.keys()
        for name, value in self.seen.dead_messages.items():
            parts = packing.unpack(value)
            texts = [part.decode() for part in parts[:22]]
            evidence = dict(zip(texts[::2], texts[1::2], strict=True))
            assert float(evidence.pop("died_at")) == self.seen.dead[name]
            evidence.pop("lost")
            assert evidence.pop("queue") == ""
            assert evidence == expected[name].evidence
            assert parts[22:] == as_bytes(expected[name].fields)

    def records_and_keys_agree(self) -> None:
        model = self.model
        # What has no record may have a note of a delivery that was lost.
        records = {id: seen for id, seen in self.seen.records.items() if seen[0].keys() != {"lost"}}
        assert records.keys() == model.records.keys()
        for id, (fields, ttl_ms) in records.items():
            record = model.records[id]
            assert fields.get("state") == record.state, f"{id}: {fields}"
            assert fields.get("token", "") == record.token
            kept = record.state is None or record.recorded
            assert (ttl_ms == -1 or ttl_ms > 60_000) is kept
            # What another language wrote may end before a fetch has noted where it lies.
            mark = "entry" if record.state is None else "finished"
            assert (mark in fields) is record.recorded, f"{id}: {fields}"
            assert ("cancel" in fields) is record.cancel or record.state is not None
            if record.state is not None and record.recorded:
                assert id in self.seen.recent[record.state]
            assert record.state is not None or fields.get("dedup", "") == record.key
            if record.state is None and id not in model.uncounted:
                assert int(fields.get("others", 0)) == record.copies - 1
                assert int(fields.get("unsettled", 0)) == record.unsettled
                assert ("started" in fields) is record.started or record.several
        assert self.seen.dedup == model.holders()
        assert self.seen.lapsing == model.lapsing()
        # The model is held to the promise as well: alive as long as a copy is.
        living = {copy.id for copy in model.at(*LIVE)} - model.uncounted
        recorded = {id for id, record in model.records.items() if record.state is None}
        assert recorded - model.uncounted == living

    def signals_were_given(self, before: Snapshot) -> None:
        assert self.seen.signals - before.signals >= self.model.owed, "blocked consumers sleep on"
        self.model.owed = 0
        assert self.seen.waiting_signals <= SIGNALS_KEPT
        assert self.seen.unread == {id for ids in self.read_signals.values() for id in ids}

    def counts_agree(self) -> None:
        model = self.model
        info = self.inspector.queue(QUEUE)
        assert info.ready == len(model.at(Place.READY, Place.RELEASED))
        assert info.in_flight == len(model.at(Place.HELD))
        assert info.scheduled == len(model.at(Place.SCHEDULED))
        assert info.due == sum(copy.due for copy in model.at(Place.SCHEDULED))
        assert info.dead == len(model.at(Place.DEAD))
        assert info.paused is model.paused
        assert info.consumers <= len(CONSUMERS)
        assert self.inspector.size(QUEUE) == len(model.at(*LIVE))

    def no_other_key_is_there(self) -> None:
        model = self.model
        bounds = (model.bounds.global_concurrency, model.bounds.rate)
        concurrency, rate = (None if bound is None else str(bound) for bound in bounds)
        control = self.seen.control
        assert (control.get("global_concurrency"), control.get("rate")) == (concurrency, rate)
        assert ("paused" in control) is model.paused
        assert bool(control) is model.gated
        k = self.keys
        known = {*k.ready, k.wake, k.control, k.dedup, k.lapsing}
        known |= {k.scheduled, k.scheduled_messages}
        noted = model.records.keys() | model.uncounted
        known |= {k.dead, k.dead_messages, *(k.job_prefix + id for id in noted)}
        known |= {k.events, *(k.recent(state) for state in self.seen.recent)}
        assert self.seen.names <= known


def choose(items: Sequence[Any], pick: int) -> Any:
    """One of them, by its number."""
    return items[pick % len(items)]


def as_bytes(fields: Fields) -> list[bytes]:
    return [part.encode() if isinstance(part, str) else part for part in fields]


def packed(copy: Copy) -> bytes:
    """A scheduled message as docs/wire-format.md describes it."""
    return packing.pack(copy.fields, copy.level)
