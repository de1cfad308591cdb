"""The spec's JobScheduler: enqueue by queue and payload, without knowing the job's function."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import dramatiq
import msgspec
from dramatiq import Broker, Message

from actors.app import settings
from actors.errors import UnknownQueue, WrongPayload
from actors.job import JobActor
from broker.errors import InvalidOption

# Of a message, and not of an actor; the rest is what the broker's middleware knows.
_MESSAGE_OPTIONS: Final = frozenset(
    {"broker_priority", "correlation_id", "deduplication_key", "pipe_ignore"}
)


def schedule_job(
    queue: str,
    payload: msgspec.Struct,
    *,
    delay: int | timedelta | None = None,
    **options: Any,
) -> Message[Any]:
    """Enqueue a job on the application's broker; see :meth:`JobScheduler.schedule_job`."""
    return JobScheduler(dramatiq.get_broker()).schedule_job(queue, payload, delay=delay, **options)


class JobScheduler:
    """Enqueues payloads on the queues of one broker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def schedule_job(
        self,
        queue: str,
        payload: msgspec.Struct,
        *,
        delay: int | timedelta | None = None,
        **options: Any,
    ) -> Message[Any]:
        """Enqueue the job that takes this payload on this queue; returned means it is safe.

        Args:
          queue: the queue's name or its short name in the settings.
          delay: how long it waits at least, in milliseconds or as a timedelta.
          options: Dramatiq's message options, as in ``broker_priority=2``.

        Raises:
          UnknownQueue, WrongPayload, InvalidOption: name the field, its value and the rule.
          InvalidPayload: the payload breaks a rule; names the path.
          In all of these cases nothing was enqueued.
        """
        actor = self._actor(queue, payload)
        _check_delay(delay)
        self._check_options(options)
        return actor.send_with_options(args=(payload,), delay=delay, **options)

    def _actor(self, queue: str, payload: msgspec.Struct) -> JobActor[Any, Any]:
        name = settings.queue_names.get(queue, queue)
        jobs = [a for a in self._jobs() if a.queue_name == name]
        if not jobs:
            known = sorted({a.queue_name for a in self._jobs()})
            raise UnknownQueue("queue", queue, f"must be one of {', '.join(known)}")
        # Types are matched, never values: a payload may be private.
        taking = [
            a for a in jobs if a.payload_type is not None and isinstance(payload, a.payload_type)
        ]
        if len(taking) != 1:
            raise WrongPayload("payload", type(payload).__name__, _rule(queue, jobs, taking))
        return taking[0]

    def _jobs(self) -> list[JobActor[Any, Any]]:
        return [a for a in self._broker.actors.values() if isinstance(a, JobActor)]

    def _check_options(self, options: dict[str, Any]) -> None:
        known = self._broker.actor_options | _MESSAGE_OPTIONS
        for name, value in options.items():
            if name not in known:
                raise InvalidOption(name, value, "unknown option")


def _check_delay(delay: object) -> None:
    if delay is None:
        return
    negative = isinstance(delay, timedelta) and delay < timedelta(0)
    whole = isinstance(delay, int) and not isinstance(delay, bool) and delay >= 0
    if negative or not (whole or isinstance(delay, timedelta)):
        raise InvalidOption("delay", delay, "must be milliseconds, 0 or more, or a timedelta")


def _rule(queue: str, jobs: list[JobActor[Any, Any]], taking: list[JobActor[Any, Any]]) -> str:
    if taking:
        names = ", ".join(a.actor_name for a in taking)
        return f"several jobs of queue {queue!r} take it ({names}); send it to one of them"
    types = sorted({a.payload_type.__name__ for a in jobs if a.payload_type is not None})
    return f"queue {queue!r} takes {' or '.join(types) or 'no single payload'}"
