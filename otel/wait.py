"""How long an entry waited for its run."""

from __future__ import annotations

import time

from broker.delivery import Delivery


def waited_s(delivery: Delivery) -> float:
    """Seconds since the entry was ready to run: since its time came, or since it was enqueued.

    The two clocks are not the same, so what comes out negative is 0.
    """
    return max(0.0, time.time() - delivery.ready_at_ms / 1000)
