"""What is known of jobs, and what is said to one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from broker import entry, packing
from broker.delivery import Lease
from broker.keys import cancel_channel
from broker.retention import Keep
from broker.runner import Runner


@dataclass(frozen=True, slots=True)
class Found:
    """What the server knows of one job."""

    #: ended, waiting, scheduled or running.
    place: str
    record: dict[bytes, bytes]
    #: The entry's fields; empty when the job has ended.
    fields: dict[bytes, bytes]
    #: Who runs it; empty for nobody.
    consumer: str
    deliveries: int
    due_ms: int | None


class RecordCommands(Runner):
    """A part of :class:`broker.commands.Commands`."""

    def cancel(self, queue: str, message_id: str) -> str:
        """Cancel a job; cancelled, requested (it runs), ended (before this) or unknown."""
        k = self.keys(queue)
        keys = (
            *(k.scheduled, k.scheduled_messages, k.dedup, k.job_prefix, k.events),
            *(k.recent("cancelled"), k.control, k.wake, k.outbox, k.lapsing, *k.ready),
        )
        outcome, line, due_ms = self._run(
            "cancel", keys, message_id, cancel_channel(self.namespace)
        )
        if line:
            keys = (line.decode(), k.scheduled, k.wake, k.job_prefix)
            self._run("leave_line", keys, message_id, due_ms)
        return str(outcome.decode())

    def promote(self, queue: str, message_id: str) -> bool:
        """Let a scheduled message run now; False if it is not scheduled."""
        k = self.keys(queue)
        return bool(self._run("promote", (k.scheduled, k.job_prefix, k.wake), message_id))

    def progress(
        self, queue: str, lease: Lease, message_id: str, progress: float, note: str
    ) -> bool:
        """Note how far a running job is; False if the lease is lost or no record is kept."""
        k = self.keys(queue)
        fence = (lease.entry_id, lease.count, lease.consumer)
        keys = (k.ready[lease.level], k.job_prefix)
        return bool(self._run("progress", keys, *fence, message_id, repr(progress), note))

    def jobs(self, queue: str, message_ids: Sequence[str]) -> list[Found | None]:
        """What is known of these jobs at one moment; None for those without a record."""
        k = self.keys(queue)
        keys = (k.scheduled, k.scheduled_messages, k.job_prefix, *k.ready)
        return [
            None if row is None else _found(row) for row in self._run("jobs", keys, *message_ids)
        ]

    def find_ended(
        self, queue: str, state: str, field: str, text: str, offset: int, limit: int, most: int
    ) -> tuple[int, list[str]]:
        """Look at up to ``limit`` records for ``most`` matches; how many it were, and the ids."""
        k = self.keys(queue)
        keys = (k.recent(state), k.job_prefix)
        looked_at, *ids = self._run("find_ended", keys, field, text, offset, limit, most)
        return looked_at, [id.decode("utf-8", "replace") for id in ids]

    def find_scheduled(
        self, queue: str, field: str, text: str, offset: int, limit: int, most: int
    ) -> tuple[int, list[str]]:
        """As :meth:`find_ended`, for messages that wait for their time."""
        k = self.keys(queue)
        keys = (k.scheduled, k.scheduled_messages, k.job_prefix)
        looked_at, *ids = self._run("find_scheduled", keys, field, text, offset, limit, most)
        return looked_at, [id.decode("utf-8", "replace") for id in ids]

    def find_ready(
        self, queue: str, level: int, field: str, text: str, start: str, limit: int, most: int
    ) -> tuple[int, str, list[str]]:
        """As :meth:`find_ended`, for a level's entries; with the id of the last one looked at."""
        keys = (self.keys(queue).ready[level],)
        looked_at, last, *ids = self._run("find_ready", keys, field, text, start, limit, most)
        return looked_at, last.decode(), [id.decode("utf-8", "replace") for id in ids]

    def forget(self, queue: str, state: str, kept: Keep, limit: int) -> int:
        """Drop up to ``limit`` records of jobs that ended so, beyond ``kept``; returns how many."""
        k = self.keys(queue)
        keys = (k.recent(state), k.job_prefix)
        return int(self._run("forget", keys, state, *kept.bounds, limit))

    def lapse(self, queue: str, limit: int) -> int:
        """Free up to ``limit`` deduplication keys whose time is over; returns how many."""
        k = self.keys(queue)
        return int(self._run("lapse", (k.lapsing, k.dedup), limit))


def _found(row: Sequence[Any]) -> Found:
    place, record, message, consumer, deliveries, due = row
    parts = packing.unpack(message) if isinstance(message, bytes) and message else message or []
    return Found(
        place.decode(),
        entry.to_mapping(record),
        dict(zip(parts[::2], parts[1::2], strict=False)),
        consumer.decode(),
        deliveries,
        None if due < 0 else due,
    )
