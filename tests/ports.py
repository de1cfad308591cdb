"""Ports for what has to be told one before it listens."""

from __future__ import annotations

import itertools
import os
import socket

from broker.embedded import HOST

# Below those that the system gives to whoever asks for any port (Linux: from 32,768): it would
# give one away before the program that is told it listens, or while a server restarts.
_FIRST, _BEHIND = 20_000, 32_000
#: The processes of `pytest -n` are gw0, gw1, …; each has a range, so that none takes another's.
_RANGES = 8
_WIDTH = (_BEHIND - _FIRST) // _RANGES
_OURS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _RANGES
# Another suite on this machine most likely begins elsewhere.
_PLACES = itertools.count(os.getpid())


def free_port(in_a_row: int = 1) -> int:
    """The first of so many ports in a row that nobody uses; none of them twice in a while."""
    while True:
        places = [next(_PLACES) % _WIDTH for _ in range(in_a_row)]
        ports = [_FIRST + _OURS * _WIDTH + place for place in places]
        if ports[-1] - ports[0] == in_a_row - 1 and all(map(_is_free, ports)):
            return ports[0]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
