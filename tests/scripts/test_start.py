"""start.lua: jobs begin under the limits of their keys, or are parked until they may."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from broker.commands import BEGINNING, Handed
from broker.delivery import Slot
from broker.entry import Fields
from broker.limit_commands import Start, Turn
from broker.limits import KeyLimits, Rate
from broker.outcome import Cancel, Done, Park, Retry, Settled
from tests.scripts.conftest import QUEUE, Scripts, fields_of, message_id

LEASE_MS = 60_000
#: 100 ms and its share of the slack from one start to the next.
RATE = Rate(10, per_ms=1_000)
INTERVAL_MS = RATE.interval_us / 1000
BY_RATE = KeyLimits(rate_key="u1", rate=RATE)
ONE_AT_ONCE = KeyLimits(concurrency_key="u1", concurrency=1)


@dataclass
class Jobs:
    """What a worker does with the jobs of one queue that have limits."""

    scripts: Scripts

    def start(self, handed: Handed, limits: KeyLimits, *, lease_ms: int = LEASE_MS) -> Start:
        name = message_id(handed)
        return self.scripts.commands.start(QUEUE, handed.lease, name, limits, lease_ms)

    def send_and_start(self, name: str, limits: KeyLimits, *, level: int = 0) -> Start:
        self.scripts.enqueue(self.scripts.new(name, level))
        (handed,) = self.scripts.take()
        return self.start(handed, limits)

    def bring_back(self, name: str) -> Handed:
        """As if the time had come at which it is due."""
        self.scripts.client.zadd(self.scripts.keys.scheduled, {name: 0}, xx=True)
        (handed,) = self.scripts.take()
        assert message_id(handed) == name
        return handed

    def let_pass(self, key: str, ms: float) -> None:
        """As if so much time had passed since the key's last start."""
        state = self.scripts.keys.limit(key)
        tat = int(self.scripts.client.hget(state, "tat"))
        self.scripts.client.hset(state, "tat", tat - int(ms * 1000))

    def due(self, name: str) -> int | None:
        """When the job is due, unix ms; None if it is not scheduled."""
        score = self.scripts.client.zscore(self.scripts.keys.scheduled, name)
        return None if score is None else int(score)

    def expire_slots(self, key: str) -> None:
        """As if nobody had renewed the key's slots."""
        slots = self.scripts.keys.slots(key)
        for holder in self.scripts.client.zrange(slots, 0, -1):
            self.scripts.client.zadd(slots, {holder: 1})

    def free(self, start: Start, *, most: int = 1) -> int:
        assert start.slot is not None
        return self.scripts.commands.free_slot(QUEUE, start.slot, most)


@pytest.fixture
def jobs(scripts: Scripts) -> Jobs:
    return Jobs(scripts)


# -- a rate by key


def test_the_first_starts_and_the_next_are_parked_one_interval_apart(jobs: Jobs) -> None:
    first = jobs.send_and_start("a", BY_RATE)
    assert (first.turn, first.due_ms, first.slot) == (Turn.STARTED, 0, None)
    for place, name in enumerate("bcd"):
        parked = jobs.send_and_start(name, BY_RATE)
        wanted = first.now_us / 1000 + INTERVAL_MS * (place + 1) - 5
        assert parked.turn is Turn.PARKED
        assert wanted <= parked.due_ms < wanted + 1
        assert jobs.due(name) == parked.due_ms
    assert jobs.scripts.ids() == ["a"]  # the others are in one place only


def test_keys_do_not_hinder_each_other(jobs: Jobs) -> None:
    assert jobs.send_and_start("a", BY_RATE).turn is Turn.STARTED
    other = KeyLimits(rate_key="u2", rate=RATE)
    assert jobs.send_and_start("b", other).turn is Turn.STARTED


def test_a_parked_entry_comes_back_as_it_was(jobs: Jobs) -> None:
    scripts = jobs.scripts
    jobs.send_and_start("a", BY_RATE)
    fields: Fields = ["id", "b", "actor", "x", "at", "1", "args", "[1]", "sealed", b"\xff\x00\x80"]
    scripts.enqueue(scripts.new("b", 2, fields=fields))
    (handed,) = scripts.take()
    assert jobs.start(handed, BY_RATE).turn is Turn.PARKED
    assert scripts.ids(2) == []
    assert scripts.pending(2) == []
    back = jobs.bring_back("b")
    assert back.lease.level == 2
    assert back.lease.count == 1
    assert back.fields == handed.fields


def test_who_comes_when_its_time_has_come_starts(jobs: Jobs) -> None:
    jobs.send_and_start("a", BY_RATE)
    jobs.send_and_start("b", BY_RATE)
    jobs.let_pass("u1", INTERVAL_MS)
    assert jobs.start(jobs.bring_back("b"), BY_RATE).turn is Turn.STARTED


def test_who_comes_too_early_is_parked_to_the_same_time(jobs: Jobs) -> None:
    jobs.send_and_start("a", BY_RATE)
    parked = jobs.send_and_start("b", BY_RATE)
    jobs.send_and_start("c", BY_RATE)
    again = jobs.start(jobs.bring_back("b"), BY_RATE)
    assert again.turn is Turn.PARKED
    assert again.due_ms == parked.due_ms


def test_nobody_overtakes_those_who_wait(jobs: Jobs) -> None:
    jobs.send_and_start("a", BY_RATE)
    jobs.send_and_start("b", BY_RATE)
    jobs.let_pass("u1", INTERVAL_MS)  # it is the turn of b, which is on its way
    late = jobs.send_and_start("c", BY_RATE)
    assert late.turn is Turn.PARKED
    assert jobs.start(jobs.bring_back("b"), BY_RATE).turn is Turn.STARTED


def test_a_job_that_never_comes_does_not_hold_up_the_others(jobs: Jobs) -> None:
    jobs.send_and_start("a", BY_RATE)
    jobs.send_and_start("b", BY_RATE)
    jobs.scripts.commands.purge(QUEUE, 100)
    jobs.let_pass("u1", 3 * INTERVAL_MS)
    assert jobs.send_and_start("c", BY_RATE).turn is Turn.STARTED
    line = jobs.scripts.keys.rate_line("u1")
    assert jobs.scripts.client.zcard(line) == 0  # and it is forgotten


def test_after_a_late_start_the_next_in_line_comes_later(jobs: Jobs) -> None:
    jobs.send_and_start("a", BY_RATE)
    jobs.send_and_start("b", BY_RATE)
    jobs.send_and_start("c", BY_RATE)
    jobs.let_pass("u1", INTERVAL_MS + 50)
    late = jobs.start(jobs.bring_back("b"), BY_RATE)
    wanted = late.now_us / 1000 + INTERVAL_MS - 5
    due = jobs.due("c")
    assert due is not None
    assert wanted <= due < wanted + 1


def test_a_delivery_that_died_on_the_way_has_its_place_still(jobs: Jobs) -> None:
    scripts = jobs.scripts
    jobs.send_and_start("a", BY_RATE)
    scripts.enqueue("b")
    (lost,) = scripts.take()
    parked = jobs.start(lost, BY_RATE)
    jobs.send_and_start("c", BY_RATE)
    (place,) = [scripts.client.zrank(scripts.keys.rate_line("u1"), "b")]
    # It is handed over before its time, and its worker dies: the entry goes to the next one.
    handed = jobs.bring_back("b")
    scripts.release(handed, deliveries=1)
    (again,) = scripts.take()
    assert jobs.start(again, BY_RATE).due_ms == parked.due_ms
    assert scripts.client.zrank(scripts.keys.rate_line("u1"), "b") == place


def test_a_stale_delivery_neither_starts_nor_moves_anything(jobs: Jobs) -> None:
    scripts = jobs.scripts
    scripts.enqueue("a")
    (handed,) = scripts.take()
    scripts.release(handed, deliveries=1)
    (owner,) = scripts.take(consumer="c2")
    before = scripts.snapshot()
    assert jobs.start(handed, BY_RATE).turn is Turn.STALE
    assert scripts.snapshot() == before
    assert scripts.settle(owner, Done()) is Settled.OK
    assert jobs.start(owner, BY_RATE).turn is Turn.STALE


def test_a_job_that_somebody_wants_cancelled_is_not_parked(jobs: Jobs) -> None:
    scripts = jobs.scripts
    jobs.send_and_start("a", BY_RATE)
    scripts.enqueue("b")
    (handed,) = scripts.take()
    scripts.client.hset(scripts.keys.job_prefix + "b", "cancel", "1")
    assert jobs.start(handed, BY_RATE).turn is Turn.CANCELLED
    assert jobs.due("b") is None
    assert scripts.settle(handed, Cancel()) is Settled.OK


def test_a_burst_starts_at_once_and_then_the_interval_holds(jobs: Jobs) -> None:
    limits = KeyLimits(rate_key="u1", rate=Rate(10, per_ms=10_000, burst=3))
    turns = [jobs.send_and_start(name, limits).turn for name in "abcd"]
    assert turns == [Turn.STARTED] * 3 + [Turn.PARKED]


def test_a_higher_rate_lets_those_who_wait_come_earlier(jobs: Jobs) -> None:
    slow = KeyLimits(rate_key="u1", rate=Rate(1, per_ms=60_000))
    fast = KeyLimits(rate_key="u1", rate=Rate(600, per_ms=60_000))
    first = jobs.send_and_start("a", slow)
    for name in "bc":
        jobs.send_and_start(name, slow)
    parked = jobs.send_and_start("d", fast)  # the first word of the new rate
    interval_ms = Rate(600, per_ms=60_000).interval_us / 1000
    assert parked.due_ms < first.now_us / 1000 + 4 * interval_ms
    for name in "bc":
        due = jobs.due(name)
        assert due is not None
        assert due <= parked.due_ms


def test_a_lower_rate_counts_from_the_last_start(jobs: Jobs) -> None:
    first = jobs.send_and_start("a", BY_RATE)
    slow = KeyLimits(rate_key="u1", rate=Rate(1, per_ms=60_000))
    parked = jobs.send_and_start("b", slow)
    wanted = first.now_us / 1000 + 60_010 - 5
    assert wanted <= parked.due_ms < wanted + 1


def test_deliveries_that_ended_unsettled_are_remembered_over_a_parking(jobs: Jobs) -> None:
    scripts = jobs.scripts
    jobs.send_and_start("a", BY_RATE)
    handed = scripts.hold("b", deliveries=3)
    assert jobs.start(handed, BY_RATE).turn is Turn.PARKED
    assert scripts.record("b")[b"unsettled"] == b"2"
    again = jobs.bring_back("b")
    scripts.age(again)
    done = scripts.commands.reclaim(QUEUE, 1_000, 3, 100, BEGINNING)
    assert (done.released, done.ended) == (0, 1)
    assert scripts.letter("b")[0][b"deliveries"] == b"3"


def test_a_failed_attempt_ends_that_count(jobs: Jobs) -> None:
    scripts = jobs.scripts
    jobs.send_and_start("a", BY_RATE)
    assert jobs.start(scripts.hold("b", deliveries=3), BY_RATE).turn is Turn.PARKED
    retry = Retry(1, 0, fields_of("b"))
    assert scripts.settle(jobs.bring_back("b"), retry) is Settled.OK
    assert b"unsettled" not in scripts.record("b")


@pytest.mark.parametrize("order", [1, -1], ids=["from the head on", "towards the head"])
def test_who_comes_after_cancelled_jobs_comes_in_the_place_of_the_first(
    jobs: Jobs, order: int
) -> None:
    jobs.send_and_start("a", BY_RATE)
    first, *others = [jobs.send_and_start(name, BY_RATE) for name in "bcdef"]
    for name in "bcd"[::order]:
        assert jobs.scripts.commands.cancel(QUEUE, name) == "cancelled"
    assert jobs.due("e") == first.due_ms
    assert jobs.due("f") == others[-1].due_ms  # when e starts, it is told
    assert jobs.scripts.client.zrange(jobs.scripts.keys.rate_line("u1"), 0, -1) == [b"e", b"f"]


def test_a_cancelled_job_behind_others_moves_nobody(jobs: Jobs) -> None:
    jobs.send_and_start("a", BY_RATE)
    parked = {name: jobs.send_and_start(name, BY_RATE).due_ms for name in "bcd"}
    assert jobs.scripts.commands.cancel(QUEUE, "c") == "cancelled"
    assert (jobs.due("b"), jobs.due("d")) == (parked["b"], parked["d"])


def test_a_job_that_is_cancelled_when_its_time_has_come_lets_the_next_one_come(jobs: Jobs) -> None:
    scripts = jobs.scripts
    jobs.send_and_start("a", BY_RATE)
    jobs.send_and_start("b", BY_RATE)
    last = jobs.send_and_start("c", BY_RATE)
    handed = jobs.bring_back("b")
    scripts.client.hset(scripts.keys.job_prefix + "b", "cancel", "1")
    assert jobs.start(handed, BY_RATE).turn is Turn.CANCELLED
    assert (jobs.due("c") or 0) < last.due_ms


def test_a_job_that_is_cancelled_on_its_way_lets_the_next_one_come(jobs: Jobs) -> None:
    scripts = jobs.scripts
    jobs.send_and_start("a", BY_RATE)
    scripts.enqueue(scripts.new("b", recorded=True))
    jobs.start(scripts.take()[0], BY_RATE)
    last = jobs.send_and_start("c", BY_RATE)
    scripts.schedule("before", delay_ms=0)
    scripts.client.zadd(scripts.keys.scheduled, {"before": 0, "b": 1})
    (handed,) = scripts.take(1)
    assert message_id(handed) == "before"
    assert jobs.due("b") is None
    assert scripts.commands.cancel(QUEUE, "b") == "cancelled"
    assert (jobs.due("c") or 0) < last.due_ms


def test_the_state_of_a_key_expires(jobs: Jobs) -> None:
    for name in "ab":
        jobs.send_and_start(name, BY_RATE)
    for name in "cd":
        jobs.send_and_start(name, ONE_AT_ONCE)
    keys = jobs.scripts.keys
    for key in (keys.limit("u1"), keys.rate_line("u1"), keys.slots("u1"), keys.slots_line("u1")):
        assert 0 < jobs.scripts.client.pttl(key) < 4_000_000


def test_a_job_without_an_id_is_parked_as_well(jobs: Jobs) -> None:
    scripts = jobs.scripts
    jobs.send_and_start("a", BY_RATE)
    scripts.client.xadd(scripts.keys.ready[0], {"id": "", "actor": "x", "at": "1", "args": "[]"})
    (handed,) = scripts.take()
    assert jobs.start(handed, BY_RATE).turn is Turn.PARKED
    assert scripts.fetch().due_in_ms is not None
    records = scripts.client.keys(scripts.keys.job_prefix + "*")
    assert records == [(scripts.keys.job_prefix + "a").encode()]


# -- a key that is held


def test_a_held_key_starts_nothing_until_then(jobs: Jobs) -> None:
    until = jobs.scripts.commands.hold(QUEUE, "u1", 5_000)
    assert jobs.scripts.commands.hold(QUEUE, "u1", 1_000) == until
    by_rate = jobs.send_and_start("a", BY_RATE)
    assert (by_rate.turn, by_rate.due_ms) == (Turn.PARKED, until)
    behind = jobs.send_and_start("b", BY_RATE)
    assert until + INTERVAL_MS <= behind.due_ms < until + INTERVAL_MS + 1
    by_slot = jobs.send_and_start("c", ONE_AT_ONCE)
    assert (by_slot.turn, by_slot.due_ms) == (Turn.PARKED, until)
    assert jobs.send_and_start("d", KeyLimits("u2", RATE, "u2", 1)).turn is Turn.STARTED


def test_a_hold_ends(jobs: Jobs) -> None:
    jobs.scripts.commands.hold(QUEUE, "u1", 0)
    assert jobs.send_and_start("a", KeyLimits("u1", RATE, "u1", 1)).turn is Turn.STARTED


# -- a concurrency by key


def test_without_a_slot_a_job_waits_for_the_end_of_a_lease(jobs: Jobs) -> None:
    first = jobs.send_and_start("a", ONE_AT_ONCE)
    assert first.turn is Turn.STARTED
    assert first.slot is not None
    for place, name in enumerate("bc"):
        parked = jobs.send_and_start(name, ONE_AT_ONCE)
        assert parked.turn is Turn.PARKED
        assert parked.due_ms == first.now_us // 1000 + LEASE_MS * (place + 1)
        assert jobs.due(name) == parked.due_ms


def test_a_freed_slot_calls_the_first_that_waits(jobs: Jobs) -> None:
    first = jobs.send_and_start("a", ONE_AT_ONCE)
    jobs.send_and_start("b", ONE_AT_ONCE)
    jobs.send_and_start("c", ONE_AT_ONCE)
    signals = jobs.scripts.signals()
    assert jobs.free(first) == 1
    assert jobs.scripts.signals() == signals + 1
    (handed,) = jobs.scripts.take()  # due now
    assert message_id(handed) == "b"
    assert jobs.send_and_start("d", ONE_AT_ONCE).turn is Turn.PARKED  # nobody overtakes it
    second = jobs.start(handed, ONE_AT_ONCE)
    assert second.turn is Turn.STARTED
    assert jobs.free(second) == 1
    (handed,) = jobs.scripts.take()
    assert message_id(handed) == "c"


def test_as_many_hold_a_slot_as_there_are(jobs: Jobs) -> None:
    limits = KeyLimits(concurrency_key="u1", concurrency=2)
    turns = [jobs.send_and_start(name, limits).turn for name in "abcd"]
    assert turns == [Turn.STARTED] * 2 + [Turn.PARKED] * 2


def test_the_slot_of_a_dead_holder_is_free_when_its_lease_has_run_out(jobs: Jobs) -> None:
    jobs.send_and_start("a", ONE_AT_ONCE)
    jobs.send_and_start("b", ONE_AT_ONCE)
    jobs.expire_slots("u1")
    assert jobs.start(jobs.bring_back("b"), ONE_AT_ONCE).turn is Turn.STARTED


def test_a_job_delivered_again_takes_over_the_slot_of_its_dead_delivery(jobs: Jobs) -> None:
    scripts = jobs.scripts
    scripts.enqueue("a")
    (handed,) = scripts.take()
    dead = jobs.start(handed, ONE_AT_ONCE)
    jobs.send_and_start("b", ONE_AT_ONCE)
    scripts.release(handed, deliveries=1)
    (again,) = scripts.take()
    second = jobs.start(again, ONE_AT_ONCE)
    assert second.turn is Turn.STARTED
    assert jobs.free(dead) == 0  # a zombie frees nothing that is not its own
    assert scripts.client.zcard(scripts.keys.slots("u1")) == 1
    assert jobs.free(second) == 1


def test_a_renewed_slot_outlives_its_first_lease(jobs: Jobs) -> None:
    scripts = jobs.scripts
    scripts.enqueue("a")
    (handed,) = scripts.take()
    first = jobs.start(handed, ONE_AT_ONCE, lease_ms=1_000)
    assert first.slot is not None
    lost = Slot("u1", "nobody")
    assert scripts.commands.renew_slots(QUEUE, [first.slot, lost], LEASE_MS) == [lost]
    (score,) = [
        score
        for _, score in scripts.client.zrange(scripts.keys.slots("u1"), 0, -1, withscores=True)
    ]
    assert score >= first.now_us // 1000 + LEASE_MS


def test_a_called_job_that_does_not_come_gives_way(jobs: Jobs) -> None:
    first = jobs.send_and_start("a", ONE_AT_ONCE)
    jobs.send_and_start("b", ONE_AT_ONCE)
    jobs.free(first)
    jobs.expire_slots("u1")  # b is behind a long queue
    (handed,) = jobs.scripts.take()
    overtaking = jobs.send_and_start("c", ONE_AT_ONCE)
    assert overtaking.turn is Turn.STARTED
    assert jobs.start(handed, ONE_AT_ONCE).turn is Turn.PARKED
    assert jobs.free(overtaking) == 1


def test_more_slots_than_before_call_more_of_those_who_wait(jobs: Jobs) -> None:
    first = jobs.send_and_start("a", ONE_AT_ONCE)
    for name in "bcd":
        jobs.send_and_start(name, ONE_AT_ONCE)
    assert jobs.free(first, most=2) == 2


def test_a_purged_job_leaves_the_line(jobs: Jobs) -> None:
    first = jobs.send_and_start("a", ONE_AT_ONCE)
    jobs.send_and_start("b", ONE_AT_ONCE)
    jobs.scripts.commands.purge(QUEUE, 100)
    jobs.send_and_start("c", ONE_AT_ONCE)
    assert jobs.free(first) == 1
    (handed,) = jobs.scripts.take()
    assert message_id(handed) == "c"


def test_a_freed_slot_calls_the_first_that_waits_behind_many_that_have_ended(jobs: Jobs) -> None:
    commands = jobs.scripts.commands
    first = jobs.send_and_start("a", ONE_AT_ONCE)
    ended = [f"ended {number}" for number in range(40)]
    for name in [*ended, "b", "c"]:
        jobs.send_and_start(name, ONE_AT_ONCE)
    for name in ended:
        assert commands.cancel(QUEUE, name) == "cancelled"
    assert jobs.free(first) == 1
    (handed,) = jobs.scripts.take()
    assert message_id(handed) == "b"
    assert jobs.scripts.client.zcard(jobs.scripts.keys.slots_line("u1")) == 2


# -- both


def test_who_waits_for_the_rate_holds_no_slot(jobs: Jobs) -> None:
    both = KeyLimits("u1", RATE, "host", 1)
    by_slot = KeyLimits(concurrency_key="host", concurrency=1)
    first = jobs.send_and_start("a", both)
    assert jobs.send_and_start("b", both).turn is Turn.PARKED
    assert jobs.send_and_start("c", by_slot).turn is Turn.PARKED
    assert jobs.free(first) == 1  # c, since b waits for the rate
    (handed,) = jobs.scripts.take()
    assert message_id(handed) == "c"
    assert jobs.start(handed, by_slot).turn is Turn.STARTED


def test_who_waits_for_a_slot_uses_up_no_rate(jobs: Jobs) -> None:
    scripts = jobs.scripts
    both = KeyLimits("u1", RATE, "host", 1)
    first = jobs.send_and_start("a", KeyLimits(concurrency_key="host", concurrency=1))
    assert jobs.send_and_start("b", both).turn is Turn.PARKED
    assert not scripts.client.exists(scripts.keys.limit("u1"))
    assert jobs.free(first) == 1
    (handed,) = scripts.take()
    assert jobs.start(handed, both).turn is Turn.STARTED


def test_a_called_job_whose_rate_is_used_up_passes_its_slot_on(jobs: Jobs) -> None:
    both = KeyLimits("u1", RATE, "host", 1)
    by_slot = KeyLimits(concurrency_key="host", concurrency=1)
    first = jobs.send_and_start("a", by_slot)
    jobs.send_and_start("b", both)
    jobs.send_and_start("c", by_slot)
    jobs.free(first)
    (handed,) = jobs.scripts.take()
    assert message_id(handed) == "b"
    assert jobs.send_and_start("d", BY_RATE).turn is Turn.STARTED
    assert jobs.start(handed, both).turn is Turn.PARKED
    (handed,) = jobs.scripts.take()
    assert message_id(handed) == "c"


# -- parking by settlement


def test_a_parked_settlement_keeps_the_entry_as_it_is(jobs: Jobs) -> None:
    scripts = jobs.scripts
    scripts.enqueue(scripts.new("a", 1))
    (handed,) = scripts.take()
    before = scripts.now_ms()
    assert scripts.settle(handed, Park(5_000)) is Settled.OK
    due = jobs.due("a")
    assert due is not None
    assert before + 5_000 <= due <= scripts.now_ms() + 5_000
    assert scripts.settle(handed, Park(0)) is Settled.GONE
    back = jobs.bring_back("a")
    assert (back.lease.level, back.lease.count, back.fields) == (1, 1, handed.fields)
