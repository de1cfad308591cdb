"""Keeps what is sealed in Redis out of the logs.

An exception's text may quote its job's arguments, and Dramatiq logs it with the traceback.
Of a sealed job's exceptions the log has the types and the places in the code.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from typing import Final

from broker.delivery import Delivery

_WORKER_LOGGER: Final = "dramatiq.worker.WorkerThread"


def without_texts(error: BaseException) -> str:
    """The traceback as Python prints it, chain included, with every exception's text left out."""
    parts: list[str] = []
    for each in reversed(list(_chain(error))):
        parts += traceback.format_tb(each.__traceback__)
        parts.append(f"{type(each).__qualname__} (its text is not shown: the job is encrypted)\n")
    return "".join(parts).rstrip()


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


class _HideSealed(logging.Filter):
    """Changes the records that speak of a sealed delivery; drops none."""

    def filter(self, record: logging.LogRecord) -> bool:
        args = record.args if isinstance(record.args, tuple) else ()
        if any(isinstance(each, Delivery) and each.sealed for each in args):
            record.args = tuple(
                type(each).__name__ if isinstance(each, BaseException) else each for each in args
            )
            if record.exc_info and record.exc_info[1] is not None:
                record.exc_text = without_texts(record.exc_info[1])
                record.exc_info = None
        return True


_hide_sealed: Final = _HideSealed()


def hide_sealed() -> None:
    """Filter what Dramatiq's worker threads log in this process; idempotent."""
    logging.getLogger(_WORKER_LOGGER).addFilter(_hide_sealed)
