"""`job`: what makes a function a job of this application.

It is dramatiq.actor with the queue's settings applied, typed payloads on both sides
and failures that say whether a repeat makes sense.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any, Final, ParamSpec, Protocol, TypeVar, cast, overload

import dramatiq
from dramatiq import Broker
from dramatiq.asyncio import async_to_sync
from dramatiq.errors import RateLimitExceeded, Retry
from dramatiq.middleware import MiddlewareError

from actors.errors import PermanentJobError, QueueProcessingError
from middleware.payload import InvalidPayload
from middleware.validation import ValidatedActor

P = ParamSpec("P")
R = TypeVar("R")

# Dramatiq's own control flow. Interrupts (shutdown, time limit) are no Exception
# and pass by anyway.
_CONTROL: Final = (Retry, RateLimitExceeded, MiddlewareError)


class JobActor(ValidatedActor[P, R]):
    """An actor whose arguments are validated, and whose failures say whether to repeat it."""

    def __init__(
        self,
        fn: Callable[P, Awaitable[R]] | Callable[P, R],
        *,
        broker: Broker,
        actor_name: str,
        queue_name: str,
        priority: int,
        options: dict[str, Any],
    ) -> None:
        throws = options.get("throws") or ()
        permanent = throws if isinstance(throws, tuple) else (throws,)
        super().__init__(
            _guarded(fn, actor_name, permanent),
            broker=broker,
            actor_name=actor_name,
            queue_name=queue_name,
            priority=priority,
            options={**options, "throws": (PermanentJobError, InvalidPayload)},
        )


class JobDecorator(Protocol):
    """What :func:`job` returns: functions and coroutine functions become jobs."""

    @overload
    def __call__(self, fn: Callable[P, Awaitable[R]]) -> JobActor[P, R]: ...

    @overload
    def __call__(self, fn: Callable[P, R]) -> JobActor[P, R]: ...


def job(
    *,
    queue_name: str,
    actor_name: str | None = None,
    priority: int = 0,
    **options: Any,
) -> JobDecorator:
    """Declare a job on a queue.

    ``queue_name`` is the queue's full name. What the function raises becomes a
    :class:`QueueProcessingError` from that cause; an exception listed in ``throws``
    becomes a :class:`PermanentJobError`, which is buried at once.
    """
    declared = dramatiq.actor(
        queue_name=queue_name,
        actor_name=actor_name,
        priority=priority,
        actor_class=JobActor,
        **options,
    )
    # What it makes is what actor_class says; dramatiq's own type knows only Actor.
    return cast(JobDecorator, declared)


def _guarded(
    fn: Callable[..., Any],
    actor_name: str,
    permanent: tuple[type[BaseException], ...],
) -> Callable[..., Any]:
    run: Callable[..., Any] = async_to_sync(fn) if iscoroutinefunction(fn) else fn

    @functools.wraps(fn)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return run(*args, **kwargs)
        except (*_CONTROL, QueueProcessingError, InvalidPayload):
            raise
        except Exception as error:
            kind = PermanentJobError if isinstance(error, permanent) else QueueProcessingError
            raise kind(f"Failed to process {actor_name}: {_named(error)}") from error

    # What wraps() has copied would make a caller take the wrapper for a coroutine function.
    return guarded


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
