"""Payloads are validated in the caller and in the worker, and messages of older code still run."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from inspect import iscoroutinefunction
from typing import Any, Final, ParamSpec, TypeAlias, TypeVar

import msgspec
from dramatiq import Actor, Broker, Message
from dramatiq.asyncio import async_to_sync
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Middleware

from broker.checks import check_int
from broker.errors import AwaitsDeploy, InvalidOption, Refused
from middleware.parameters import Parameters
from middleware.payload import InvalidPayload

P = ParamSpec("P")
R = TypeVar("R")

#: The message option with the version of its arguments; a message without it has the first.
VERSION: Final = "payload_version"

#: From one version to the next: called with a message's arguments, plain JSON types; returns
#: those of the next version, a tuple of them or the only one.
Upcaster: TypeAlias = Callable[..., Any]


class ValidatedActor(Actor[P, R]):
    """An actor whose arguments are validated in the caller and typed in the worker.

    ``@dramatiq.actor(actor_class=ValidatedActor)``. Its parameters' annotations are the rules,
    and a :class:`middleware.payload.Payload` has a ``check`` of its own besides. Two options:

    ``version`` (1): of the arguments, carried by each message.
    ``upcasters``: version -> what makes that version's arguments those of the next one, so that
    a message which was queued before a deploy runs after it.

    The broker needs the middleware :class:`Validation`.

    Raises:
      InvalidOption: an option breaks its rule, or the broker has no Validation.
      TypeError: an annotation can't be resolved.
    """

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
        if not any(isinstance(each, Validation) for each in broker.middleware):
            raise InvalidOption("middleware", broker.middleware, "must have a Validation")
        self._parameters = Parameters(actor_name, fn)
        self.version: int = options.get("version", 1)
        self._upcasters: Mapping[int, Upcaster] = options.get("upcasters", {})
        _check_versions(self.version, self._upcasters)
        super().__init__(
            _typed(fn, self._parameters),
            broker=broker,
            actor_name=actor_name,
            queue_name=queue_name,
            priority=priority,
            options=options,
        )

    @property
    def payload_type(self) -> type[msgspec.Struct] | None:
        """The struct this actor takes; None when its arguments are not one payload."""
        return self._parameters.payload_type

    def message_with_options(
        self,
        *,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> Message[R]:
        """Build a message; its arguments are plain JSON types.

        Missing ones are left to whoever completes the message (a pipeline does).

        Raises:
          InvalidPayload: an argument breaks its type's rules.
        """
        plain_args, plain_kwargs = self._parameters.dump(args, kwargs or {})
        if self.version > 1:
            options[VERSION] = self.version
        return super().message_with_options(args=plain_args, kwargs=plain_kwargs, **options)

    def send_with_options(
        self,
        *,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> Message[R]:
        """Enqueue a message; ``delay`` is milliseconds or a timedelta.

        Raises:
          InvalidPayload: an argument is missing or breaks its type's rules; nothing was enqueued.
        """
        self._parameters.require(args, kwargs or {})
        return super().send_with_options(args=args, kwargs=kwargs, **options)

    def accept(self, message: MessageProxy) -> None:
        """Bring a message's arguments to this version and validate them.

        Raises:
          InvalidPayload: they break a rule, or are of a version that nothing leads on from.
          AwaitsDeploy: they are of a later version.
        """
        version = message.options.get(VERSION, 1)
        if type(version) is not int or version < 1:
            raise self._invalid(VERSION, f"must be an integer of at least 1, got {version!r}")
        if version > self.version:
            raise AwaitsDeploy(
                "invalid",
                f"payload of {self.actor_name!r} has version {version}, known are 1 to "
                f"{self.version}",
            )
        args, kwargs = message.args, message.kwargs
        for each in range(version, self.version):
            args, kwargs = self._upcast(each, args, kwargs), {}
        self._parameters.load(args, kwargs)
        if version < self.version:
            # They hide the message's own, which are what a retry or a burial keeps.
            message.args, message.kwargs = args, kwargs

    def _upcast(
        self, version: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, ...]:
        upcaster = self._upcasters.get(version)
        if upcaster is None:
            raise self._invalid(VERSION, f"nothing leads on from version {version}")
        try:
            made = upcaster(*args, **kwargs)
        except Exception as error:
            text = f"{type(error).__name__} from version {version}: {error}"
            raise self._invalid(VERSION, text) from error
        return made if isinstance(made, tuple) else (made,)

    def _invalid(self, path: str, rule: str) -> InvalidPayload:
        return InvalidPayload(self.actor_name, path, rule)


class Validation(Middleware):
    """Refuses a message whose arguments are not what its :class:`ValidatedActor` takes.

    The job does not run and is not retried; the message is buried as ``invalid``. One of a later
    version than this worker knows waits for the deploy first, as one for an unknown actor does.
    """

    @property
    def actor_options(self) -> set[str]:
        return {"version", "upcasters"}

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        actor = broker.get_actor(message.actor_name)
        if isinstance(actor, ValidatedActor):
            try:
                actor.accept(message)
            except (InvalidPayload, Refused) as error:
                message.fail()
                if isinstance(error, Refused):
                    raise
                raise Refused("invalid", str(error)) from error


def _check_versions(version: object, upcasters: object) -> None:
    version = check_int("version", version, 1)
    rule = f"must map versions below {version}, without a gap up to {version - 1}, to functions"
    if not isinstance(upcasters, Mapping) or not all(map(callable, upcasters.values())):
        raise InvalidOption("upcasters", upcasters, rule)
    if sorted(upcasters) != list(range(version - len(upcasters), version)) or 0 in upcasters:
        raise InvalidOption("upcasters", sorted(upcasters), rule)


def _typed(fn: Callable[..., Any], parameters: Parameters) -> Callable[..., Any]:
    run: Callable[..., Any] = async_to_sync(fn) if iscoroutinefunction(fn) else fn

    @functools.wraps(fn)
    def typed(*args: Any, **kwargs: Any) -> Any:
        typed_args, typed_kwargs = parameters.load(args, kwargs)
        return run(*typed_args, **typed_kwargs)

    # What wraps() has copied would make a caller take the wrapper for a coroutine function.
    return typed
