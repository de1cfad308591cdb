"""What goes in comes out, byte for byte, by every way through the scripts."""

from __future__ import annotations

import struct

import pytest

from broker.commands import Handed
from broker.entry import Fields
from broker.letter_commands import Redriven
from broker.outcome import Bury, Retry
from tests.scripts.conftest import QUEUE, Scripts, fields_of

VALUES: dict[str, bytes] = {
    "integers above 2^53": b"[9007199254740993,-9223372036854775808,12345678901234567890123]",
    "NaN and infinity": b"[NaN,Infinity,-Infinity]",
    "emoji": '["\N{GRINNING FACE}\N{HEAVY BLACK HEART}\ufe0f"]'.encode(),
    "escaped surrogate": b'["\\ud800"]',
    "surrogate": "\ud800".encode("utf-8", "surrogatepass"),
    "NUL": b'["\\u0000"]\x00',
    "empty containers": b'[[],{},[[]],""]',
    "no text": bytes(range(256)),
    "nothing": b"",
    "msgpack": struct.pack(">Bd", 0xCB, 1.5) + b"\xc0\xc1\xdf",
    "a mebibyte": b"x" * (1 << 20),
    **{f"{n} bytes": b"y" * n for n in (31, 32, 255, 256, 65_535, 65_536)},
}


@pytest.fixture(params=sorted(VALUES))
def fields(request: pytest.FixtureRequest) -> Fields:
    value = VALUES[request.param]
    return [*fields_of("m", args=value), value or b"empty", value]


def as_bytes(fields: Fields) -> list[bytes]:
    return [part.encode() if isinstance(part, str) else part for part in fields]


def only(handed: list[Handed]) -> list[bytes]:
    (one,) = handed
    return one.fields


def test_enqueue_and_fetch(scripts: Scripts, fields: Fields) -> None:
    scripts.enqueue(scripts.new("m", fields=fields))
    assert only(scripts.take()) == as_bytes(fields)


def test_schedule_promotion_and_fetch_with_and_without_a_level(
    scripts: Scripts, fields: Fields
) -> None:
    for level in (0, 2):
        scripts.schedule(scripts.new(f"m{level}", level, fields=fields), delay_ms=0)
        (handed,) = scripts.take()
        assert handed.lease.level == level
        assert handed.fields == as_bytes(fields)


@pytest.mark.parametrize("delay_ms", [0, 1])
def test_retry(scripts: Scripts, fields: Fields, delay_ms: int) -> None:
    scripts.enqueue("m")
    scripts.settle(scripts.take()[0], Retry(delay_ms, 1, fields))
    while not (handed := scripts.take()):
        pass  # the server's clock has to pass the millisecond
    assert handed[0].lease.level == 1
    assert only(handed) == as_bytes(fields)


def test_burial_and_redrive(scripts: Scripts, fields: Fields) -> None:
    scripts.enqueue(scripts.new("m", fields=fields))
    scripts.settle(scripts.take()[0], Bury("rejected", "why"))
    redrive(scripts)
    assert only(scripts.take()) == as_bytes(fields)


def test_burial_by_the_server_and_redrive(scripts: Scripts, fields: Fields) -> None:
    scripts.hold(scripts.new("m", fields=fields), 2)
    assert scripts.commands.reclaim_consumer(QUEUE, 0, "c1", 2, 10) == (0, 1)
    redrive(scripts)
    assert only(scripts.take()) == as_bytes(fields)


def redrive(scripts: Scripts) -> None:
    """As the letter lies among the dead."""
    _, flat = scripts.letter("m")
    assert scripts.commands.redrive(QUEUE, [Redriven("m", "m", 1, "", flat)]) == 1


def test_release(scripts: Scripts, fields: Fields) -> None:
    scripts.enqueue(scripts.new("m", fields=fields))
    scripts.release(scripts.take()[0], 1)
    assert only(scripts.take()) == as_bytes(fields)
