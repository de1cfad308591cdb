"""A worker process's threads beside Dramatiq's, from its boot to its shutdown."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from broker.burial import burial_of_doomed
from broker.cancellation import CancelListener
from broker.consumer_name import ConsumerName
from broker.courier import Courier
from broker.dead_routing import DeadRouting
from broker.keeper import Keeper
from broker.keys import cancel_channel
from broker.queue_rules import QueueRules
from broker.settler import Settler
from broker.stopping import stop

if TYPE_CHECKING:
    from broker.broker import StreamsBroker
    from broker.worker_process import WorkerProcess

_FLUSH_S = 5.0


class WorkerThreads:
    """Settler, keeper, courier, and the listener that hears of cancelled jobs."""

    def __init__(
        self,
        broker: StreamsBroker,
        worker: WorkerProcess,
        name: ConsumerName,
        rules: QueueRules,
        routing: DeadRouting,
    ) -> None:
        commands, flows = broker.commands, broker.flows
        self.courier = Courier(
            flows, lambda home, flow_id: stop(flows, commands.cancel, home, flow_id, "timed_out")
        )
        self.settler = Settler(
            commands,
            rules.retention,
            lambda *end: broker.emit_after("settle", *end),
            self.courier.put,
        )
        self.keeper = Keeper(
            commands,
            lambda: dict(worker.queues),
            self.settler.unwritten,
            name,
            rules,
            routing,
            lease_ms=broker.heartbeat_timeout,
            max_deliveries=broker.max_deliveries,
            on_cancelled=worker.running.cancel,
            bury=lambda queue, doomed: worker.settle(queue, burial_of_doomed(doomed)),
            look_for_letters=self.courier.sweep,
        )
        self._cancel_listener = CancelListener(
            broker.client,
            cancel_channel(broker.namespace),
            on_cancel=worker.cancel,
            on_gap=self.keeper.look_now,
        )

    def start(self) -> None:
        for thread in (self.courier, self.settler, self.keeper, self._cancel_listener):
            thread.start()

    def revive(self) -> None:
        """Start those again that have died alone."""
        self.settler.revive()
        self.keeper.revive()
        self.courier.revive()

    def stop(self) -> bool:
        """Write and deliver what is left, for a few seconds in all if that takes so long.

        Returns False if some settlements stay unwritten.
        """
        deadline = time.monotonic() + _FLUSH_S
        written = self.settler.stop(_FLUSH_S)
        self.courier.stop(max(0.0, deadline - time.monotonic()))
        self.keeper.stop()
        self._cancel_listener.stop()
        return written
