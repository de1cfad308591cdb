"""`python -m broker.health WHAT`: whether a container does its work; exit status 0 or 1.

``consumers``: the server has heard within a lease of a consumer on this host.
``schedules``: no schedule has been due for long without being fired.
``server``: the server answers.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final

from dramatiq.errors import BrokerConnectionError

from broker.broker import StreamsBroker
from broker.consumer_name import ConsumerName
from broker.errors import HeadraceError
from broker.settings import Settings

#: A scheduler fires within seconds; this is a scheduler that is stuck.
OVERDUE_MS: Final = 120_000


def consumers(broker: StreamsBroker) -> str | None:
    """What is wrong, or None: at least one consumer on this host is alive."""
    here = socket.gethostname()
    for queue in broker.inspector.queues():
        for name in broker.inspector.live_consumer_names(queue, broker.heartbeat_timeout):
            parsed = ConsumerName.parse(name)
            if parsed is not None and parsed.host == here:
                return None
    return f"no queue has a live consumer on {here}"


def schedules(broker: StreamsBroker) -> str | None:
    """What is wrong, or None: nothing is overdue."""
    now_ms = time.time() * 1000
    for info in broker.inspector.schedules.list():
        next_ms = info.next_fire_ms
        if not info.paused and next_ms is not None and next_ms < now_ms - OVERDUE_MS:
            return f"{info.schedule.name} has been due for {(now_ms - next_ms) / 1000:.0f} s"
    return None


def server(broker: StreamsBroker) -> str | None:
    """What is wrong, or None: the server answers."""
    broker.inspector.queues()
    return None


CHECKS: Final[Mapping[str, Callable[[StreamsBroker], str | None]]] = {
    "consumers": consumers,
    "schedules": schedules,
    "server": server,
}


def main(arguments: list[str]) -> int:
    """The exit status: 0 if all is well, 1 if not, 2 for a check that there is not."""
    if len(arguments) != 1 or arguments[0] not in CHECKS:
        sys.stderr.write(f"usage: python -m broker.health {'|'.join(CHECKS)}\n")
        return 2
    try:
        settings = Settings.load()
        broker = StreamsBroker(
            url=settings.redis_url, namespace=settings.queue_prefix, middleware=[]
        )
        wrong = CHECKS[arguments[0]](broker)
    except (HeadraceError, BrokerConnectionError) as error:
        wrong = f"{type(error).__name__}: {error}"
    if wrong is not None:
        sys.stderr.write(f"{wrong}\n")
    return 0 if wrong is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
