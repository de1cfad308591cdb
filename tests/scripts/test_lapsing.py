"""Whatever frees a deduplication key with a time drops the time: the next holder has its own."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from broker.commands import BEGINNING
from broker.letter_commands import Redriven
from broker.new_message import Claim, NewMessage
from broker.outcome import Bury, Cancel, Done, Retry
from tests.scripts.conftest import QUEUE, Scripts, fields_of

MAX = 5
TTL_MS = 60_000


def lapsing(scripts: Scripts, message_id: str, *, outlives: bool = False) -> NewMessage:
    """A message that holds the key `k` for a time."""
    new = scripts.new(message_id, recorded=True)
    return msgspec.structs.replace(new, claim=Claim("k", TTL_MS, outlives))


def times(scripts: Scripts) -> list[bytes]:
    """The keys that have one."""
    found: list[bytes] = scripts.client.zrange(scripts.keys.lapsing, 0, -1)
    return found


def taken_too_often(scripts: Scripts) -> None:
    """In the hands of a consumer that has vanished, for the last time."""
    scripts.enqueue(lapsing(scripts, "m"))
    scripts.release(scripts.take()[0], MAX - 1)
    scripts.age(*scripts.take(consumer="vanished"))


def reclaim(scripts: Scripts) -> None:
    taken_too_often(scripts)
    assert scripts.commands.reclaim(QUEUE, 1_000, MAX, 10, BEGINNING).ended == 1


def reclaim_consumer(scripts: Scripts) -> None:
    taken_too_often(scripts)
    assert scripts.commands.reclaim_consumer(QUEUE, 0, "vanished", MAX, 10) == (0, 1)


def settle(outcome: Done | Cancel | Bury) -> Callable[[Scripts], None]:
    def run(scripts: Scripts) -> None:
        scripts.enqueue(lapsing(scripts, "m"))
        scripts.settle(scripts.take()[0], outcome, key="k")

    return run


def cancel(scripts: Scripts) -> None:
    scripts.enqueue(lapsing(scripts, "m"))
    assert scripts.commands.cancel(QUEUE, "m") == "cancelled"


def purge(scripts: Scripts) -> None:
    scripts.enqueue(lapsing(scripts, "m"))
    assert scripts.commands.purge(QUEUE, 10) == 1


def promote_what_is_no_message(scripts: Scripts) -> None:
    scripts.schedule(lapsing(scripts, "m"), delay_ms=0)
    scripts.client.hset(scripts.keys.scheduled_messages, "m", "junk")
    assert scripts.take() == []


def send_a_successor_without_the_key(scripts: Scripts) -> None:
    scripts.enqueue(lapsing(scripts, "m"))
    scripts.enqueue(scripts.new("m", successor=True))


ENDS: dict[str, Callable[[Scripts], None]] = {
    "done": settle(Done()),
    "cancelled while it ran": settle(Cancel()),
    "buried": settle(Bury("rejected", "")),
    "reclaimed": reclaim,
    "reclaimed from a consumer": reclaim_consumer,
    "cancelled": cancel,
    "purged": purge,
    "no message": promote_what_is_no_message,
    "replaced": send_a_successor_without_the_key,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_key_that_is_freed_before_its_time_leaves_none(
    scripts: Scripts, end: Callable[[Scripts], None]
) -> None:
    end(scripts)
    assert scripts.dedup() == {}
    assert times(scripts) == []


def test_a_key_that_is_held_on_keeps_its_time(scripts: Scripts) -> None:
    scripts.enqueue(lapsing(scripts, "m", outlives=True))
    scripts.settle(scripts.take()[0], Done(), key="k")
    assert times(scripts) == [b"k"], "it outlives its message"


def test_who_has_lost_the_key_does_not_end_the_time_of_its_holder(scripts: Scripts) -> None:
    scripts.enqueue(lapsing(scripts, "m"))
    (handed,) = scripts.take()
    scripts.client.zadd(scripts.keys.lapsing, {"k": 1})
    assert scripts.enqueue(lapsing(scripts, "younger")) == ["younger"]
    scripts.settle(handed, Done(), key="k")
    assert (scripts.dedup(), times(scripts)) == ({b"k": b"younger"}, [b"k"])


def test_a_retry_keeps_key_and_time(scripts: Scripts) -> None:
    scripts.enqueue(lapsing(scripts, "m"))
    scripts.settle(scripts.take()[0], Retry(0, 0, fields_of("m")), key="k")
    assert (scripts.dedup(), times(scripts)) == ({b"k": b"m"}, [b"k"])


def test_a_redriven_letter_holds_its_key_until_it_has_ended(scripts: Scripts) -> None:
    settle(Bury("rejected", ""))(scripts)
    # As somebody left it who did not know that it has to go.
    scripts.client.zadd(scripts.keys.lapsing, {"k": 1})
    scripts.commands.redrive(QUEUE, [Redriven("m", "m", 0, "k", fields_of("m"))])
    assert scripts.commands.lapse(QUEUE, 10) == 0
    assert scripts.enqueue(lapsing(scripts, "other")) == ["m"]


def test_a_redriven_letter_takes_its_key_from_one_whose_time_is_over(scripts: Scripts) -> None:
    settle(Bury("rejected", ""))(scripts)
    scripts.enqueue(lapsing(scripts, "late"))
    scripts.client.zadd(scripts.keys.lapsing, {"k": 1})
    scripts.commands.redrive(QUEUE, [Redriven("m", "m", 0, "k", fields_of("m"))])
    assert scripts.dedup() == {b"k": b"m"}
