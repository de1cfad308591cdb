"""A buried message: what it tells, and how it goes back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dramatiq.common import current_millis
from dramatiq.errors import DecodeError
from dramatiq.message import Message

from broker import entry, evidence, flow_step, packing
from broker.evidence import Attempt, Trail
from broker.letter_commands import Redriven
from broker.sealing import Unauthenticated

#: Parts of a dead letter's value before the entry's fields: bury.lua.
EVIDENCE: Final = 22
#: What a sealed letter has beside its entry's fields: the message's place in a flow; bury.lua.
_PLACE: Final = b"flow"
#: The options that count attempts, or tell of them.
_COUNTERS: Final = (
    *(evidence.ATTEMPTS, "retries", "traceback"),
    *("requeue_timestamp", "unknown_since"),
)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A buried message with the evidence.

    ``message`` is None when it can't be decoded, and when its content is encrypted: an inspector
    has no keys. ``broker.codec.revealed(letter)`` fills it in where there are some.
    """

    id: str
    #: In which its message runs; it may lie among the dead of another one.
    queue: str
    #: One of :data:`broker.evidence.Reason`.
    reason: str
    #: The class of the exception, without its module; empty for none.
    error_type: str
    #: ``Type: message``, or what was wrong with the entry.
    error: str
    traceback: str
    #: The newest, oldest first; those whose worker left them have no error.
    attempts: list[Attempt]
    died_at_ms: int
    deliveries: int
    level: int
    #: What the message was deduplicated by; empty for none.
    deduplication_key: str
    actor: str | None
    message: Message[Any] | None
    fields: dict[str, bytes]
    #: Traceback and attempts as they lie in Redis; encrypted when the message is.
    trail: bytes

    @property
    def correlation_id(self) -> str | None:
        """The id of the chain that the message belongs to, if it carries one."""
        found = self._options.get("correlation_id")
        return found if isinstance(found, str) else None

    @property
    def trace_id(self) -> str | None:
        """The trace of the send, from the message's W3C ``traceparent``."""
        parts = str(self._options.get("traceparent", "")).split("-")
        return parts[1] if len(parts) == 4 else None

    @property
    def redrives(self) -> int:
        """How often it was dead before and came back."""
        found = self._options.get("redrives")
        return found if type(found) is int else 0

    @property
    def redriven_at_ms(self) -> int | None:
        """When it last came back from the dead, unix ms."""
        found = self._options.get("redriven_at")
        return found if type(found) is int else None

    @property
    def sealed(self) -> bool:
        """Whether the content is encrypted; it stays so when the letter is redriven."""
        return "sealed" in self.fields

    @property
    def raw(self) -> dict[bytes, bytes]:
        """The fields by the bytes of their names, which may be no text."""
        return {entry.unescaped(name): value for name, value in self.fields.items()}

    @property
    def _options(self) -> Mapping[str, Any]:
        if self.message is not None:
            return self.message.options
        header = self.header
        return {} if header is None else header.options

    @property
    def header(self) -> Message[Any] | None:
        """What can be read of a sealed message, without arguments; None for any other."""
        if not self.sealed:
            return None
        try:
            return entry.decode_header("", self.raw)
        except DecodeError:
            return None

    def with_content(self, message: Message[Any], trail: Trail) -> DeadLetter:
        """The letter with what was encrypted of it."""
        attempts = _attempts(trail, message) + self.attempts
        return dataclasses.replace(
            self,
            message=message,
            error=trail.error or self.error,
            traceback=trail.traceback,
            attempts=sorted(attempts, key=_ended),
        )

    def redriven(self) -> Redriven:
        """The letter as it goes back to its queue: its attempts begin anew."""
        entry_fields = self.raw
        place = entry_fields.pop(_PLACE, b"") if self.sealed else b""
        fields = [part for pair in entry_fields.items() for part in pair]
        message = self.header if self.message is None else self.message
        # A forgery goes back as it came as well: it must not speak for the message it names.
        if message is None or self.reason == Unauthenticated.reason:
            return Redriven(self.id, "", self.level, "", fields)
        options = {name: value for name, value in message.options.items() if name not in _COUNTERS}
        options |= {"redrives": self.redrives + 1, "redriven_at": current_millis()}
        return Redriven(
            self.id,
            message.message_id,
            self.level,
            self.deduplication_key,
            entry.with_options(message, fields, options),
            flow_step.place_in(options) or _text(place),
        )

    @classmethod
    def read(cls, queue: str, id: str, packed: bytes) -> DeadLetter:
        """The letter that lies among the dead of a queue under this id."""
        parts = packing.unpack(packed)
        found, flat = entry.to_mapping(parts[:EVIDENCE]), parts[EVIDENCE:]
        queue = _text(found[b"queue"]) or queue
        fields = dict(zip(flat[::2], flat[1::2], strict=False))
        try:
            message = entry.decode(queue, fields)
        except DecodeError:
            message = None
        trail = evidence.load(found[b"trail"])
        actor = message.actor_name if message is not None else _text(found[b"actor"]) or None
        return cls(
            id=id,
            queue=queue,
            reason=_text(found[b"reason"]),
            error_type=_text(found[b"error_type"]),
            error=_text(found[b"error"]),
            traceback=trail.traceback,
            attempts=sorted(_attempts(trail, message) + evidence.lost(found[b"lost"]), key=_ended),
            died_at_ms=int(found[b"died_at"]),
            deliveries=int(found[b"deliveries"]),
            level=int(found[b"level"]),
            deduplication_key=_text(found[b"dedup"]),
            actor=actor,
            message=message,
            fields={entry.escaped(name): value for name, value in fields.items()},
            trail=found[b"trail"],
        )


def _attempts(trail: Trail, message: Message[Any] | None) -> list[Attempt]:
    if trail.attempts or message is None:
        return trail.attempts
    return evidence.attempts_of(message.options)  # buried by a script, which reads no JSON


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _ended(attempt: Attempt) -> int:
    return attempt.ended_at_ms
