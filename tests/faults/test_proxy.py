"""The proxy itself: the weather that it makes must arrive."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import redis

from broker.embedded import EmbeddedValkey
from tests.faults.proxy import Proxy
from tests.waiting import QUIET_S, wait_for


@pytest.fixture
def line(valkey_server: EmbeddedValkey) -> Iterator[Proxy]:
    made = Proxy(valkey_server.port)
    yield made
    made.close()


@pytest.fixture
def raw(line: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", line.port), timeout=10) as connected:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connected


def ask(raw: socket.socket, text: bytes) -> tuple[list[bytes], float]:
    """The pieces of the echo as they arrive, and how long that took."""
    began = time.monotonic()
    raw.sendall(b"*2\r\n$4\r\nECHO\r\n$%d\r\n%s\r\n" % (len(text), text))
    pieces: list[bytes] = []
    while not b"".join(pieces).endswith(text + b"\r\n"):
        pieces.append(raw.recv(65_536))
        assert pieces[-1], "closed"
    return pieces, time.monotonic() - began


def test_a_throttled_reply_takes_its_time(line: Proxy, raw: socket.socket) -> None:
    line.weather(bytes_per_s=1000)
    _, took = ask(raw, b"x" * 500)
    assert 0.8 <= took <= 3
    line.weather()
    assert ask(raw, b"x" * 500)[1] < 0.4


def test_a_split_reply_arrives_in_pieces(line: Proxy, raw: socket.socket) -> None:
    line.weather(split=True, bytes_per_s=2000)
    assert len(ask(raw, b"x" * 400)[0]) > 3


@pytest.mark.parametrize("throttled", ["bytes_per_s", "request_bytes_per_s"])
def test_a_throttled_request_takes_its_time(
    line: Proxy, raw: socket.socket, throttled: str
) -> None:
    line.weather(**{throttled: 1000})
    began = time.monotonic()
    raw.sendall(b"*2\r\n$6\r\nSTRLEN\r\n$500\r\n%s\r\n" % (b"x" * 500))
    assert raw.recv(10) == b":0\r\n"
    assert 0.4 <= time.monotonic() - began <= 2


def test_delay_and_jitter_hold_requests_and_replies_back(line: Proxy, raw: socket.socket) -> None:
    line.weather(delay_s=0.2, jitter_s=0.1)
    assert 0.4 <= ask(raw, b"x")[1] <= 2


def test_nothing_passes_a_blackhole_until_it_ends(line: Proxy, raw: socket.socket) -> None:
    line.blackhole()
    raw.sendall(b"PING\r\n")
    raw.settimeout(QUIET_S)
    with pytest.raises(TimeoutError):
        raw.recv(10)
    line.restore()
    raw.settimeout(10)
    assert raw.recv(10) == b"+PONG\r\n"


def test_a_reset_is_an_error_for_the_client(line: Proxy, raw: socket.socket) -> None:
    ask(raw, b"x")
    assert line.reset() == 1
    with pytest.raises(ConnectionResetError):
        raw.recv(10)


@pytest.mark.parametrize(("share", "arrives"), [(0.0, b""), (0.5, b"$4\r\nx")])
def test_a_cut_comes_after_the_execution_and_once(
    line: Proxy, valkey_server: EmbeddedValkey, namespace: str, share: float, arrives: bytes
) -> None:
    key = namespace.encode()
    cut = line.cut(key, reply=b"xyz", share=share)
    with redis.Redis.from_url(valkey_server.url) as straight:
        straight.set(key, b"wxyz"[:1])
        with socket.create_connection(("127.0.0.1", line.port), timeout=10) as raw:
            raw.sendall(b"SET %s xyzw GET\r\n" % key)  # answers with the old value: no cut yet
            assert raw.recv(100) == b"$1\r\nw\r\n"
            assert not cut.happened.is_set()
            raw.sendall(b"SET %s done GET\r\n" % key)
            wait_for(cut.happened, "the cut")
            received = b""
            with pytest.raises(ConnectionResetError):  # noqa: PT012 - the read that fails is not the first
                while True:
                    received += raw.recv(100)
                    threading.Event().wait(0.01)
            assert received == arrives
        assert straight.get(key) == b"done", "cut before it was executed"
    with socket.create_connection(("127.0.0.1", line.port), timeout=10) as raw:
        raw.sendall(b"SET %s xyz GET\r\n" % key)
        assert raw.recv(100).startswith(b"$4")
