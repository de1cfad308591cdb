"""renew.lua: leases of deliveries that are still held."""

from __future__ import annotations

import msgspec

from tests.scripts.conftest import GROUP, Scripts


def test_a_renewal_resets_the_idle_time_and_nothing_else(scripts: Scripts) -> None:
    scripts.enqueue("a", scripts.new("b", 2))
    high, low = scripts.take()
    scripts.age(low, high)
    assert scripts.renew(low, high) == []
    assert max(scripts.idle_ms(0) + scripts.idle_ms(2)) < 30_000
    assert scripts.pending(0) == [(low.lease.entry_id, "c1", 1)]
    assert scripts.pending(2) == [(high.lease.entry_id, "c1", 1)]


def test_renewing_what_is_lost_says_so_and_takes_nothing_back(scripts: Scripts) -> None:
    scripts.enqueue("mine", "taken", "settled", "released")
    mine, taken, settled, released = scripts.take()
    scripts.release(taken, 1)
    scripts.take(consumer="c2")
    scripts.client.xack(scripts.keys.ready[0], GROUP, settled.lease.entry_id)
    scripts.release(released, 1)
    before = scripts.snapshot()
    earlier = msgspec.structs.replace(mine.lease, count=7)
    wrong = msgspec.structs.replace(mine, lease=earlier)
    asked = [mine, taken, settled, released, wrong]
    assert scripts.renew(*asked) == [handed.lease for handed in asked[1:]]
    assert scripts.snapshot() == before


def test_renewing_on_a_stream_that_is_gone_loses_the_lease(scripts: Scripts) -> None:
    scripts.enqueue("m")
    (handed,) = scripts.take()
    scripts.client.delete(scripts.keys.ready[0])
    assert scripts.renew(handed) == [handed.lease]


def test_renewing_one_of_two_entries_of_one_id_leaves_the_other_alone(scripts: Scripts) -> None:
    low, high = scripts.twins()
    scripts.age(low, high)
    assert scripts.renew(high) == []
    assert min(scripts.idle_ms(0)) >= 60_000
    assert max(scripts.idle_ms(1)) < 30_000


def test_a_record_of_another_type_lets_no_lease_run_out(scripts: Scripts) -> None:
    scripts.enqueue("a", "spoilt", "b")
    handed = scripts.take()
    scripts.client.delete(scripts.keys.job_prefix + "spoilt")
    scripts.client.set(scripts.keys.job_prefix + "spoilt", "no hash")
    scripts.age(*handed)
    assert scripts.renew(*handed) == []
    assert max(scripts.idle_ms()) < 30_000
