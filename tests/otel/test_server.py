"""Which server a span says it is about."""

from __future__ import annotations

import pytest
from redis.sentinel import Sentinel

from broker import StreamsBroker
from otel.server import server_attributes


@pytest.mark.parametrize(
    ("url", "address", "port"),
    [
        ("redis://db:7000/2", "db", 7000),
        ("redis://db", "db", 6379),
        ("redis://:7000", "localhost", 7000),
        ("rediss://user:secret@db:1/0", "db", 1),
        ("unix:///run/redis.sock", "/run/redis.sock", None),
    ],
)
def test_the_server_is_named_as_the_broker_was_given_it(
    url: str, address: str, port: int | None
) -> None:
    found = server_attributes(StreamsBroker(url=url, middleware=[]))
    assert (found["server.address"], found.get("server.port")) == (address, port)


def test_a_server_that_sentinel_finds_is_not_named() -> None:
    client = Sentinel([("sentinel", 26379)]).master_for("jobs")
    assert server_attributes(StreamsBroker(client=client, middleware=[])) == {}
