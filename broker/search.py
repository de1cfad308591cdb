"""Finds jobs by what they are about, a bounded part of a queue at a time."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

from dramatiq.message import Message

from broker.checks import check_choice, check_text
from broker.commands import Commands
from broker.job_pages import BEGINNING, level_and_start, offset_in
from broker.job_record import JobRecord, State
from broker.jobs import Jobs, Page

#: What jobs are found by: a part of the actor's name, of the error's text, of the correlation id.
By: TypeAlias = Literal["actor", "error", "correlation"]

_PER_CALL: Final = 1_000
_CALLS: Final = 10
#: Where an entry has it: a retried one tells its errors among its options.
_OF_ENTRY: Final = {"actor": "actor", "error": "options", "correlation": "options"}
_OF_SCHEDULED: Final = {"actor": "actor", "error": "error", "correlation": "options"}


class JobSearch:
    """Over the queues of a namespace. Every method raises Dramatiq's connection errors."""

    def __init__(self, commands: Commands, jobs: Jobs) -> None:
        self._commands = commands
        self._jobs = jobs

    def page(
        self,
        queue: str,
        state: State,
        by: By,
        text: str,
        cursor: str | None = None,
        *,
        limit: int = 50,
        calls: int = _CALLS,
    ) -> Page:
        """Some of the jobs in this state of which that part contains the text.

        A page looks at up to ten thousand jobs: it may be empty and have a cursor all the same.

        Raises:
          InvalidOption: jobs are not found by that, the text is empty, or the cursor is not from
            a page before.
        """
        check_choice("by", by, get_args(By))
        check_text("text", text)
        if state is State.RUNNING:
            return self._running(queue, by, text, cursor, limit)
        ids: list[str] = []
        for _ in range(calls):
            found, cursor = self._look(queue, state, by, text, cursor, limit - len(ids))
            ids += found
            if cursor is None or len(ids) >= limit:
                break
        named: list[str | Message[object]] = [
            Message(queue, "", (), {}, {}, message_id=id) for id in ids
        ]
        records = [r for r in self._jobs.get_many(named) if r is not None and r.state is state]
        return Page(records, cursor)

    def _look(
        self, queue: str, state: State, by: By, text: str, cursor: str | None, most: int
    ) -> tuple[list[str], str | None]:
        if state is State.QUEUED:
            return self._look_at_levels(queue, by, text, cursor, most)
        offset = offset_in(cursor)
        if state.final:
            looked_at, ids = self._commands.find_ended(
                queue, state.value, by, text, offset, _PER_CALL, most
            )
        else:
            looked_at, ids = self._commands.find_scheduled(
                queue, _OF_SCHEDULED[by], text, offset, _PER_CALL, most
            )
        more = looked_at == _PER_CALL or len(ids) == most
        return ids, str(offset + looked_at) if more else None

    def _look_at_levels(
        self, queue: str, by: By, text: str, cursor: str | None, most: int
    ) -> tuple[list[str], str | None]:
        """The highest level first; a cursor is ``level:entry id``."""
        highest = len(self._commands.keys(queue).ready) - 1
        level, start = level_and_start(cursor, highest)
        found: list[str] = []
        left = _PER_CALL
        for number in range(level, -1, -1):
            looked_at, last, ids = self._commands.find_ready(
                queue, number, _OF_ENTRY[by], text, start, left, most - len(found)
            )
            found += ids
            if looked_at == left or len(found) == most:
                return found, f"{number}:{last}"
            start, left = BEGINNING, left - looked_at
        return found, None

    def _running(self, queue: str, by: By, text: str, cursor: str | None, limit: int) -> Page:
        page = self._jobs.list(queue, State.RUNNING, cursor, limit)
        return Page([r for r in page.records if text in _told(r, by)], page.cursor)


def _told(record: JobRecord, by: By) -> str:
    return {
        "actor": record.actor,
        "error": record.error,
        "correlation": record.correlation_id or "",
    }[by]
