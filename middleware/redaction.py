"""What of a job may be written down outside its queue: ids, names and types, never arguments."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Final

import msgspec
from dramatiq import Broker, Message
from dramatiq.broker import MessageProxy

from broker.configuration import HIDDEN
from broker.sealing import OPTION

# Shorter values occur by chance; a job with more values than this shows no text at all.
_LEAST_CHARACTERS = 6
_MOST_VALUES = 1_000
_MOST_TEXT = 1_000
_MOST_FRAMES = 30
_MOST_CAUSES = 5


def is_private(broker: Broker, message: Message[Any] | MessageProxy) -> bool:
    """Whether texts from the job's code, its errors' messages above all, must not be shown.

    They may quote what an encrypted job was given.
    """
    found = message.options.get(OPTION)
    if found is None:
        actor = broker.actors.get(message.actor_name)
        found = None if actor is None else actor.options.get(OPTION)
    return bool(found)


class Redaction:
    """Makes texts about one job fit to be shown."""

    def __init__(self, message: Message[Any] | MessageProxy, *, private: bool) -> None:
        self.message = message
        self._private = private

    @classmethod
    def of(cls, broker: Broker, message: Message[Any] | MessageProxy) -> Redaction:
        return cls(message, private=is_private(broker, message))

    def text(self, text: str) -> str:
        """The text with every argument of the job hidden, and bounded."""
        values = self._values()
        if values is None:
            return HIDDEN
        for value in values:
            text = text.replace(value, HIDDEN)
        return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}…"

    def error(self, error: BaseException) -> str:
        """The error's type, and its message unless the job is private."""
        name = type(error).__name__
        message = "" if self._private else self.text(_message_of(error))
        return f"{name}: {message}" if message else name

    def traceback(self, error: BaseException) -> str:
        """The frames and causes of an error; nothing but code, and what :meth:`error` shows."""
        parts: list[str] = []
        for each in reversed(list(_chain(error))):
            frames = traceback.format_tb(each.__traceback__, limit=-_MOST_FRAMES)
            parts += [*frames, f"{self.error(each)}\n"]
        return "".join(parts).rstrip()

    def _values(self) -> list[str] | None:
        """The arguments as they may occur in a text, the longest first; None: too many."""
        found: set[str] = set()
        for count, leaf in enumerate(_leaves((self.message.args, self.message.kwargs))):
            if count >= _MOST_VALUES:
                return None
            text = str(leaf)
            for each in (text, *text.splitlines()):  # what is printed comes line by line
                if len(each) >= _LEAST_CHARACTERS:
                    found |= {each, repr(each)[1:-1], json.dumps(each)[1:-1]}
        return sorted(found, key=len, reverse=True)


#: For texts that are about no job: bounded, and nothing else.
NO_JOB: Final = Redaction(Message("", "", (), {}, {}), private=False)

#: That of the job to which the current code belongs, in whatever thread or task it runs.
running: Final[ContextVar[Redaction | None]] = ContextVar("headrace_running", default=None)


def _leaves(value: object) -> Iterator[object]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += value
        elif isinstance(value, msgspec.Struct):
            waiting += [getattr(value, name) for name in value.__struct_fields__]
        elif not isinstance(value, bool) and value is not None:
            yield value


def _message_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as failure:  # an exception's own __str__ may fail, and this is for a log
        return f"<{type(failure).__name__} in __str__>"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what caused it, the latest first."""
    for _ in range(_MOST_CAUSES):
        if error is None:
            return
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
