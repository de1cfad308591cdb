"""What operators look at and change in a queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import redis

from broker.direct import pipeline
from broker.errors import translated
from broker.limits import QueueLimit
from broker.runner import Runner
from broker.scripts import names as script_names
from broker.scripts import script


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """One queue at one moment. ``due`` are scheduled messages whose time has come.

    ``oldest_age_ms`` is the age of the oldest message that waits: ready, handed back, or due.
    """

    name: str
    ready: int
    scheduled: int
    due: int
    in_flight: int
    dead: int
    oldest_age_ms: int | None
    #: Of the oldest entry there is, in flight or ready; for whoever wants it gone, as an old key.
    oldest_entry_age_ms: int | None
    paused: bool
    consumers: int
    #: It takes nothing more from producers.
    closed: bool


#: Where messages are outside the streams.
Kept: TypeAlias = Literal["scheduled", "dead"]


class OperatorCommands(Runner):
    """A part of :class:`broker.commands.Commands`."""

    def inspect(self, queue: str) -> QueueInfo:
        """Counts of one queue, from one moment; all 0 for a queue nobody used."""
        k = self.keys(queue)
        keys = (k.scheduled, k.dead, k.control, *k.ready)
        now, *counts, waiting, oldest, paused, consumers, closed = self._run("inspect", keys)
        ready, scheduled, due, in_flight, dead = counts
        return QueueInfo(
            name=queue,
            ready=ready,
            scheduled=scheduled,
            due=due,
            in_flight=in_flight,
            dead=dead,
            oldest_age_ms=None if waiting < 0 else max(0, now - waiting),
            oldest_entry_age_ms=None if oldest < 0 else max(0, now - oldest),
            paused=bool(paused),
            consumers=consumers,
            closed=bool(closed),
        )

    def pause(self, queue: str) -> bool:
        """Hand nothing more over; False if the queue was paused already."""
        k = self.keys(queue)
        return bool(self._run("pause", (k.control, k.wake)))

    def resume(self, queue: str) -> bool:
        """End a pause; False if there was none."""
        k = self.keys(queue)
        return bool(self._run("resume", (k.control, k.wake)))

    def close(self, queue: str) -> bool:
        """Take nothing more from producers; False if the queue was closed already."""
        return bool(self._run("close", (self.keys(queue).control,)))

    def open(self, queue: str) -> bool:
        """Take messages from producers again; False if the queue was open."""
        return bool(self._run("open", (self.keys(queue).control,)))

    def limit(self, queue: str, limit: QueueLimit) -> bool:
        """Set the queue's bounds, and lift those that are None; False if nothing changed."""
        k = self.keys(queue)
        bounds = (limit.global_concurrency, limit.rate)
        concurrency, rate = ("" if bound is None else str(bound) for bound in bounds)
        return bool(self._run("limit", (k.control, k.wake), concurrency, rate, limit.per_ms))

    def limit_of(self, queue: str) -> QueueLimit:
        """The queue's bounds as they are now."""
        names = ("global_concurrency", "rate", "rate_period")
        with translated():
            found = self.client.execute_command("HMGET", self.keys(queue).control, *names)
        concurrency, rate, per_ms = (None if value is None else int(value) for value in found)
        return QueueLimit(concurrency, rate, 1_000 if per_ms is None else per_ms)

    def purge(self, queue: str, limit: int) -> int:
        """Drop up to ``limit`` messages from each place but the dead letters; 0: none are left."""
        k = self.keys(queue)
        return int(
            self._run(
                "purge",
                (
                    *(k.scheduled, k.scheduled_messages, k.dedup, k.job_prefix, k.outbox),
                    *(k.lapsing, *k.ready),
                ),
                limit,
            )
        )

    def kept_ids(self, queue: str, kept: Kept, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """About ``count`` ids of what is kept; the next cursor is 0 at the end."""
        index, _ = self._kept(queue, kept)
        with translated():
            reply = self.client.execute_command("ZSCAN", index, cursor, "COUNT", count)
        following, scored = reply
        return int(following), [id for id, _ in scored]

    def kept_value(self, queue: str, kept: Kept, id: bytes) -> bytes | None:
        """A message outside the streams, packed; None when it is gone."""
        _, messages = self._kept(queue, kept)
        with translated():
            found = self.client.execute_command("HGET", messages, id)
        return None if found is None else bytes(found)

    def kept_sizes(self, queue: str) -> dict[Kept, tuple[int, int]]:
        """How many ids and how many messages are in each place outside the streams."""
        sizes: dict[Kept, tuple[int, int]] = {}
        for place in get_args(Kept):
            index, messages = self._kept(queue, place)
            with translated():
                ids, texts = pipeline(self.client, index, ("ZCARD", index), ("HLEN", messages))
            sizes[place] = (ids, texts)
        return sizes

    def refused_scripts(self) -> dict[str, str]:
        """Load every script; those that the server refuses, with its reason.

        Raises:
          AuthenticationRefused: this user may not load any.
        """
        client: Any = self.client
        refused: dict[str, str] = {}
        for name in script_names():
            try:
                with translated():
                    client.script_load(script(name).source)
            except redis.ResponseError as error:
                refused[name] = str(error)
        return refused

    def replace(self, queue: str, kept: Kept, id: bytes, before: bytes, after: bytes) -> bool:
        """Put another value in a kept one's place, if it is still that one."""
        _, messages = self._kept(queue, kept)
        return bool(self._run("replace", (messages,), id, before, after))

    def _kept(self, queue: str, kept: Kept) -> tuple[str, str]:
        k = self.keys(queue)
        if kept == "scheduled":
            return k.scheduled, k.scheduled_messages
        return k.dead, k.dead_messages

    def trim_events(self, queue: str, max_length: int, limit: int) -> int:
        """Drop up to ``limit`` of the oldest events beyond ``max_length``; returns how many.

        Whole nodes of the stream only, which makes it cheap: some more may stay.
        """
        with translated():
            return int(
                self.client.execute_command(
                    *("XTRIM", self.keys(queue).events),
                    *("MAXLEN", "~", max_length, "LIMIT", limit),
                )
            )
