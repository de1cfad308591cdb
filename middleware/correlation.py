"""One id for all that one cause sets off: the request, its jobs, and what those jobs send."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final, TypeGuard
from uuid import uuid4

from dramatiq import Broker, Message
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Middleware, MiddlewareError

from broker.errors import InvalidOption

#: The message option that carries the id.
OPTION: Final = "correlation_id"
MOST_CHARACTERS: Final = 128

_VALID = re.compile(rf"[A-Za-z0-9._:;@/+=~-]{{1,{MOST_CHARACTERS}}}", re.ASCII)
_RULE = f"must be 1 to {MOST_CHARACTERS} letters, digits or . _ : ; @ / + = ~ -"

# A context variable and no thread's local: what asyncio runs for a job inherits it.
_current: ContextVar[str | None] = ContextVar("headrace_correlation_id", default=None)
_in_job: ContextVar[bool] = ContextVar("headrace_in_job", default=False)


class InvalidCorrelationId(InvalidOption, MiddlewareError):
    """The id breaks its rule; nothing was enqueued. Not swallowed as other hooks' errors are."""


def is_valid(id: object) -> TypeGuard[str]:
    """Whether this may be a correlation id: bounded, and nothing that a log could trip over."""
    return isinstance(id, str) and _VALID.fullmatch(id) is not None


def new_correlation_id() -> str:
    """An id that no other chain has."""
    return str(uuid4())


def current_correlation_id() -> str | None:
    """The id of the chain that the caller's code belongs to; None outside of any."""
    return _current.get()


@contextmanager
def correlation(id: str | None = None) -> Iterator[str]:
    """Everything sent and logged inside belongs to this chain; None begins a new one.

    Holds for this thread or asyncio task and for the tasks it starts, not for new threads.

    Raises:
      InvalidCorrelationId: the id is too long, empty or has other characters.
    """
    if id is None:
        id = new_correlation_id()
    token = _current.set(_checked(id))
    try:
        yield id
    finally:
        _current.reset(token)


def context_in_chain(id: str) -> Context:
    """A copy of the caller's context that belongs to this chain, for code that runs in pieces.

    Raises:
      InvalidCorrelationId: as :func:`correlation`.
    """
    context = copy_context()
    context.run(_current.set, _checked(id))
    return context


class Correlation(Middleware):
    """Gives every message its chain's id, and its job's code the same id to inherit.

    What a message says of itself comes first, then the chain of the code that sends it.
    Without both a chain begins, named by the message's own id. An id from elsewhere that
    breaks the rule is replaced when the job starts.
    """

    def before_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        given = message.options.get(OPTION)
        if is_valid(given):
            return
        # In a job it may come from elsewhere, with the next step of a pipeline say.
        if given is not None and not _in_job.get():
            raise InvalidCorrelationId(OPTION, given, _RULE)
        message.options[OPTION] = _current.get() or _named_by(message)

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        id = message.options.get(OPTION)
        if not is_valid(id):
            # Noted in the message: its retries and its dead letter belong to the same chain.
            id = message.options[OPTION] = _named_by(message)
        _current.set(id)
        _in_job.set(True)

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        _current.set(None)
        _in_job.set(False)

    after_skip_message = after_process_message


def _named_by(message: Message[Any] | MessageProxy) -> str:
    # The members of a group with callbacks have its id in common, and nothing else.
    for id in (message.options.get("group_completion_uuid"), message.message_id):
        if is_valid(id):
            return id
    return new_correlation_id()


def _checked(id: str) -> str:
    if not is_valid(id):
        raise InvalidCorrelationId(OPTION, id, _RULE)
    return id
