"""The records of jobs: read them, wait for a job, cancel it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dramatiq.message import Message

from broker.commands import Commands
from broker.errors import HeadraceError, InvalidOption, translated
from broker.events import newest_event, reading
from broker.job_pages import Listing
from broker.job_record import JobRecord, State, record_of

_PAGE: Final = 50
_FINAL_ONES_REMEMBERED: Final = 1_000


class JobUnknown(HeadraceError, LookupError):
    """There is no record of this job: it never was, its record is gone, or none is kept."""

    def __init__(self, message_id: str) -> None:
        super().__init__(f"message_id: no record of job {message_id!r}")
        self.message_id = message_id


class WaitTimeout(HeadraceError, TimeoutError):
    """A job did not end in time; it goes on."""

    def __init__(self, record: JobRecord, timeout_ms: int) -> None:
        state = record.state.value
        super().__init__(f"job {record.id!r} is {state} after a wait of {timeout_ms} ms")
        self.record = record


@dataclass(frozen=True, slots=True)
class Page:
    """Some records, and where the next page begins; None when this was the last one."""

    records: list[JobRecord]
    cursor: str | None


class Jobs:
    """Reads records and cancels jobs, over all queues of a namespace.

    A job is named by its id, in any queue, or by its message, which names the queue too and
    saves a round trip for each other queue. Every method raises Dramatiq's connection errors.
    """

    def __init__(self, commands: Commands, queues: Callable[[], list[str]]) -> None:
        self._commands = commands
        self._queues = queues
        self._final = _FinalOnes()

    def get(self, job: str | Message[Any]) -> JobRecord | None:
        """The job's record; None if there is none.

        A final state never changes back, also when a replica that lags behind is asked.
        """
        return self.get_many([job])[0]

    def get_many(self, jobs: Iterable[str | Message[Any]]) -> list[JobRecord | None]:
        """The records of jobs, in their order; one round trip a queue."""
        asked = list(jobs)
        found: dict[str, JobRecord] = {}
        open_ids = {job for job in asked if isinstance(job, str)}
        queues = self._queues() if open_ids else sorted({m.queue_name for m in _messages(asked)})
        for queue in queues:
            ids = sorted(
                open_ids | {m.message_id for m in _messages(asked) if m.queue_name == queue}
            )
            for record in self._read(queue, ids):
                found[record.id] = record
                open_ids.discard(record.id)
        return [found.get(_id(job)) for job in asked]

    def _read(self, queue: str, ids: Sequence[str]) -> list[JobRecord]:
        if not ids:
            return []
        records = []
        for id, found in zip(ids, self._commands.jobs(queue, ids), strict=True):
            record = None if found is None else record_of(queue, id, found)
            token = b"" if found is None else found.record.get(b"token", b"")
            record = self._final.latest(queue, id, record, token)
            if record is not None:
                records.append(record)
        return records

    def list(
        self, queue: str, state: State | str, cursor: str | None = None, limit: int = _PAGE
    ) -> Page:
        """Some of the jobs of a queue that are in this state.

        Final ones come latest first, waiting ones in the order in which they will run. Jobs
        move while one reads, so one may be missing from the pages or come twice; a page may
        hold fewer than ``limit``.

        Raises:
          InvalidOption: there is no such state, or the cursor is not from a page before.
        """
        try:
            state = State(state)
        except ValueError:
            known = ", ".join(each.value for each in State)
            raise InvalidOption("state", state, f"must be one of {known}") from None
        listing = Listing(self._commands, queue, limit)
        ids, following = listing.page(state, cursor)
        records = [record for record in self._read(queue, ids) if record.state is state]
        order = {id: index for index, id in enumerate(ids)}
        return Page(sorted(records, key=lambda record: order[record.id]), following)

    def ended(self, queue: str) -> dict[State, int]:
        """How many records of ended jobs a queue keeps, by their state."""
        keys, states = self._commands.keys(queue), [state for state in State if state.final]
        client: Any = self._commands.client
        with translated(), client.pipeline(transaction=False) as pipe:
            for state in states:
                pipe.zcard(keys.recent(state.value))
            return dict(zip(states, pipe.execute(), strict=True))

    def wait(self, job: str | Message[Any], timeout: int = 60_000) -> JobRecord:
        """Wait up to ``timeout`` ms for the job to end; returns its record then.

        It blocks on the queue's event stream and asks nothing meanwhile.

        Raises:
          WaitTimeout: it has not ended.
          JobUnknown: there is no record of it.
        """
        deadline = time.monotonic() + timeout / 1000
        queue = self._known(job).queue
        last = newest_event(self._commands, queue)
        record = self._known(job)  # what ended before that event is seen here, a later end below
        with reading(self._commands, queue) as read:
            while not record.state.final:
                left_ms = int((deadline - time.monotonic()) * 1000)
                if left_ms <= 0:
                    raise WaitTimeout(record, timeout)
                events = read(last, left_ms)
                if events:
                    last = events[-1].id
                # The stream is capped: of very many events the awaited one may be gone.
                if len(events) > 1 or any(event.message_id == record.id for event in events):
                    record = self._known(job)
        return record

    def _known(self, job: str | Message[Any]) -> JobRecord:
        record = self.get(job)
        if record is None:
            raise JobUnknown(_id(job))
        return record

    def cancel(self, job: str | Message[Any]) -> bool:
        """Cancel a job; False if it has ended or is unknown.

        One that waits is cancelled when this returns. In one that runs
        :class:`~broker.cancellation.JobCancelled` is raised, within a second; if it returns
        all the same, it has completed. It is not tried again in any case.
        """
        queues = [job.queue_name] if isinstance(job, Message) else self._queues()
        return any(
            self._commands.cancel(queue, _id(job)) in ("cancelled", "requested") for queue in queues
        )

    def promote(self, job: str | Message[Any]) -> bool:
        """Let a job that waits for its time, or for its next attempt, run now.

        False if it is not scheduled.
        """
        queues = [job.queue_name] if isinstance(job, Message) else self._queues()
        return any(self._commands.promote(queue, _id(job)) for queue in queues)


def _messages(jobs: Iterable[str | Message[Any]]) -> list[Message[Any]]:
    return [job for job in jobs if isinstance(job, Message)]


def _id(job: str | Message[Any]) -> str:
    return job if isinstance(job, str) else job.message_id


class _FinalOnes:
    """The final records that were handed out lately: an older state read later is not believed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: OrderedDict[tuple[str, str], tuple[bytes, JobRecord]] = OrderedDict()

    def latest(
        self, queue: str, id: str, record: JobRecord | None, token: bytes
    ) -> JobRecord | None:
        with self._lock:
            known = self._seen.get((queue, id))
            if record is None:
                return None
            if record.state.final:
                self._seen[queue, id] = (token, record)
                self._seen.move_to_end((queue, id))
                if len(self._seen) > _FINAL_ONES_REMEMBERED:
                    self._seen.popitem(last=False)
            elif known is not None and known[0] == token:  # another token: it was sent again
                return known[1]
            return record
