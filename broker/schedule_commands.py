"""The scripts of schedules, one typed method each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from broker.errors import translated
from broker.new_message import NewMessage
from broker.packing import pack_array
from broker.runner import Runner
from broker.schedule import Fired

_WHAT: Final = (
    *("mark", "fired", "last", "waiting", "outcome", "skipped", "missed", "paused", "declared"),
    "times",
)


@dataclass(frozen=True, slots=True)
class Kept:
    """A schedule as it lies in Redis. Times are unix ms."""

    name: str
    definition: bytes
    #: Up to here every time has been dealt with.
    mark_ms: int
    fired_ms: int | None
    last: str | None
    waiting_ms: int | None
    #: What was noted of the last message's end.
    noted: str | None
    skipped: int
    missed: int
    paused: bool
    #: Its queue takes nothing more, from schedulers as from producers.
    closed: bool
    declared: bool
    #: What the last message's record says now; None when there is none any more.
    seen: str | None


class ScheduleCommands(Runner):
    """Every method raises Dramatiq's connection errors (see :func:`broker.errors.translated`)."""

    def _of(self, queue: str) -> tuple[str, str]:
        k = self.keys(queue)
        return k.schedules, k.schedules_state

    def look(self, queue: str) -> tuple[int, list[Kept]]:
        """The server's time and the queue's schedules."""
        k = self.keys(queue)
        now, closed, *rows = self._run("schedules", (*self._of(queue), k.job_prefix, k.control))
        return int(now), [_kept(row, bool(closed)) for row in rows]

    def put(
        self, queue: str, name: str, definition: bytes, times: str, grain_ms: int, *, declared: bool
    ) -> bool:
        """Keep a schedule; False if it was added and code declares one of its name."""
        args = (name, definition, times, grain_ms, int(declared))
        return bool(self._run("put_schedule", self._of(queue), *args))

    def fire(
        self, queue: str, kept: Kept, at_ms: int, overlap: str, token: str, message: NewMessage
    ) -> Fired:
        """Enqueue the message of a fire, unless it was made before."""
        k = self.keys(queue)
        keys = (
            *(*self._of(queue), k.wake, k.control, k.dedup, k.lapsing, k.job_prefix, k.events),
            k.ready[message.level],
        )
        args = (kept.name, kept.definition, at_ms, overlap, token)
        how = pack_array((message.level, message.packed_claim, message.recorded))
        new = (message.message_id, how, *message.fields)
        return Fired(self._run("fire", keys, *args, *new))

    def pass_over(self, queue: str, kept: Kept, until_ms: int, count: int) -> bool:
        """Let fires go by; False if they went by before."""
        args = (kept.name, kept.definition, until_ms, count)
        return bool(self._run("pass_over", self._of(queue), *args))

    def note(self, queue: str, name: str, outcome: str) -> None:
        """Note what became of the last fire's message; its record goes sooner or later."""
        with translated():
            state = self.keys(queue).schedules_state
            self.client.execute_command("HSET", state, f"outcome:{name}", outcome)

    def pause(self, queue: str, name: str) -> bool | None:
        """False if it was paused already, None if there is no such schedule."""
        return _changed(self._run("pause_schedule", self._of(queue), name))

    def resume(self, queue: str, name: str) -> bool | None:
        """False if it was not paused, None if there is no such schedule."""
        return _changed(self._run("resume_schedule", self._of(queue), name))

    def remove(self, queue: str, name: str) -> bool:
        """Forget a schedule; False if there was none."""
        return bool(self._run("remove_schedule", self._of(queue), name, *_WHAT))


def _changed(reply: int) -> bool | None:
    return None if reply < 0 else bool(reply)


def _kept(row: Sequence[bytes | None], closed: bool) -> Kept:
    name, definition, mark, fired, last, waiting, noted, skipped, missed, *rest = row
    paused, declared, seen = rest
    return Kept(
        name=_text(name) or "",
        definition=definition or b"",
        mark_ms=_number(mark) or 0,
        fired_ms=_number(fired),
        last=_text(last),
        waiting_ms=_number(waiting),
        noted=_text(noted),
        skipped=_number(skipped) or 0,
        missed=_number(missed) or 0,
        paused=paused is not None,
        closed=closed,
        declared=declared is not None,
        seen=_text(seen),
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def _number(value: bytes | None) -> int | None:
    return None if value is None else int(value)
