"""`python -m broker.health WHAT`: whether a container does its work; exit status 0 or 1.

``consumers``: the server has heard within a lease of a consumer on this host.
``heartbeat``: the process that ``HEADRACE_HEARTBEAT_FILE`` is set for, a scheduler or
``python -m otel``, has lately done what it is there for. Nobody else's work counts.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Mapping
from typing import Final

from dramatiq.errors import BrokerConnectionError

from broker.broker import StreamsBroker
from broker.consumer_name import ConsumerName
from broker.errors import HeadraceError
from broker.settings import Settings


def consumers(broker: StreamsBroker) -> str | None:
    """What is wrong, or None: at least one consumer on this host is alive."""
    here = socket.gethostname()
    for queue in broker.inspector.queues():
        for name in broker.inspector.live_consumer_names(queue, broker.heartbeat_timeout):
            parsed = ConsumerName.parse(name)
            if parsed is not None and parsed.host == here:
                return None
    return f"no queue has a live consumer on {here}"


def _consumers(settings: Settings) -> str | None:
    return consumers(
        StreamsBroker(url=settings.redis_url, namespace=settings.queue_prefix, middleware=[])
    )


def _heartbeat(settings: Settings) -> str | None:
    if settings.heartbeat is None:
        return "HEADRACE_HEARTBEAT_FILE is not set"
    overdue_s = settings.heartbeat.overdue_s()
    if overdue_s is None:
        return "no heartbeat yet"
    return None if overdue_s < 0 else f"a heartbeat has been due for {overdue_s:.0f} s"


CHECKS: Final[Mapping[str, Callable[[Settings], str | None]]] = {
    "consumers": _consumers,
    "heartbeat": _heartbeat,
}


def main(arguments: list[str]) -> int:
    """The exit status: 0 if all is well, 1 if not, 2 for a check that there is not."""
    if len(arguments) != 1 or arguments[0] not in CHECKS:
        sys.stderr.write(f"usage: python -m broker.health {'|'.join(CHECKS)}\n")
        return 2
    try:
        wrong = CHECKS[arguments[0]](Settings.load())
    except (HeadraceError, BrokerConnectionError) as error:
        wrong = f"{type(error).__name__}: {error}"
    if wrong is not None:
        sys.stderr.write(f"{wrong}\n")
    return 0 if wrong is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
