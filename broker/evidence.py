"""What is kept beside a dead letter: why it died, and when, where and how each attempt ended."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

import msgspec

#: Why a message was buried; ``docs/dead-letters.md`` says when.
Reason: TypeAlias = Literal[
    "retries_exhausted",
    "max_deliveries",
    "unknown_actor",
    "undecodable",
    "invalid",
    "undecryptable",
    "unauthenticated",
    "replayed",
    "expired",
    "rejected",
]

#: The option that carries the attempts from one to the next.
ATTEMPTS: Final = "attempts"
_ATTEMPTS_KEPT = 20
_LONGEST_ERROR = 2_000
_LONGEST_ERROR_OF_ATTEMPT = 200
_LONGEST_TRACEBACK = 8_000
#: How much larger than the message that was sent its retries may be: attempts and traceback, at
#: the most that JSON's escapes make of them, and the counters of Dramatiq's Retries.
MOST_ADDED_BYTES: Final = 128 * 1024
_FRAMES = 30  # as Dramatiq's Retries


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """One run of a job that did not succeed. ``error_type`` is empty for one that never ended."""

    #: When it failed, or when it was found that its worker had left it; unix ms.
    ended_at_ms: int
    #: The consumer: host, process and its start.
    worker: str
    error_type: str = ""
    error: str = ""


class Trail(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a job came to its end; the newest attempts, oldest first."""

    traceback: str = ""
    attempts: list[Attempt] = []
    #: What may not stand beside it in clear: the error's text, of an encrypted job.
    error: str = ""


def attempts_of(options: Mapping[str, Any]) -> list[Attempt]:
    """The attempts that a message's options carry; none if somebody else wrote there."""
    try:
        return msgspec.convert(options.get(ATTEMPTS, []), list[Attempt])
    except msgspec.ValidationError:
        return []


def options(
    before: Mapping[str, Any], error: BaseException, worker: str, now_ms: int
) -> dict[str, Any]:
    """The options with which a failed attempt goes on to the next one, bounded."""
    found: dict[str, Any] = {
        ATTEMPTS: msgspec.to_builtins(with_attempt(before, error, worker, now_ms))
    }
    if isinstance(before.get("traceback"), str):  # Dramatiq's Retries leaves it there
        found["traceback"] = shortened(before["traceback"])
    return found


def with_attempt(
    options: Mapping[str, Any], error: BaseException, worker: str, now_ms: int
) -> list[Attempt]:
    """The attempts of the options and this one, the newest of them."""
    attempt = Attempt(now_ms, worker, error_type(error), text(error, _LONGEST_ERROR_OF_ATTEMPT))
    return [*attempts_of(options), attempt][-_ATTEMPTS_KEPT:]


def error_type(error: BaseException) -> str:
    return type(error).__name__


def text(error: BaseException, longest: int = _LONGEST_ERROR) -> str:
    """``Type: message``, never longer than that and never raising."""
    try:
        said = str(error)
    except Exception as failure:
        said = f"<{type(failure).__name__} in its __str__>"
    return shortened(f"{error_type(error)}: {said}" if said else error_type(error), longest)


def traceback_of(error: BaseException) -> str:
    """The traceback with its causes; what is too long loses its middle."""
    return shortened("".join(traceback.format_exception(error, limit=_FRAMES)), _LONGEST_TRACEBACK)


def shortened(said: str, longest: int = _LONGEST_TRACEBACK) -> str:
    """:func:`encodable` text: the beginning and the end of what is longer, in characters."""
    if len(said) > longest:
        head = longest // 4
        said = f"{said[:head]} … {said[len(said) + head + 3 - longest :]}"
    return encodable(said)


def encodable(said: str) -> str:
    """Text that UTF-8 can carry: lone surrogates, which JSON may bring, are replaced."""
    return said.encode("utf-8", "replace").decode()


def dump(trail: Trail) -> str:
    return msgspec.json.encode(trail).decode()


def load(packed: bytes) -> Trail:
    """The trail of a dead letter; an empty one when it has none, or one that is sealed."""
    try:
        return msgspec.json.decode(packed, type=Trail)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return Trail()


def lost(lines: bytes) -> list[Attempt]:
    """The deliveries that ended unsettled, from what ``lost.lua`` noted."""
    found = []
    for line in lines.decode("utf-8", "replace").splitlines():
        at, _, worker = line.partition(" ")
        found.append(Attempt(int(at), worker))
    return found
