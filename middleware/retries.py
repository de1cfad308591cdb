"""Dramatiq's Retries with the attempts and waits of a queue, and of an exception."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias, cast, get_args

from dramatiq import Actor, Broker, Message
from dramatiq.broker import MessageProxy
from dramatiq.errors import RateLimitExceeded, Retry
from dramatiq.middleware import Interrupt, Retries

from broker.delivery import Delivery
from broker.errors import InvalidActorOption
from broker.queue_settings import Jitter, QueueSettings

Exceptions: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]

_FRAMES = 30
_EXPONENT = 62  # 2 to this power is longer than any wait
# Dramatiq's own control flow, never a reason to give up before the attempts are used up.
_CONTROL: Final = (Retry, RateLimitExceeded, Interrupt)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often a failing job runs, and how long it waits in between. Times are ms.

    Raises:
      InvalidActorOption: a value breaks its rule.
    """

    #: Runs until it is buried, the first included; None: as often as without this policy.
    attempts: int | None = None
    #: exponential: the wait doubles with every attempt. fixed: it stays.
    backoff: Literal["exponential", "fixed"] = "exponential"
    #: The wait before the second attempt.
    delay: int = 15_000
    #: What no wait exceeds.
    longest: int = 604_800_000
    #: How waits are spread; see :data:`broker.queue_settings.Jitter`.
    jitter: Jitter = "added"

    def __post_init__(self) -> None:
        for name, value in (
            ("attempts", 1 if self.attempts is None else self.attempts),
            ("delay", self.delay),
            ("longest", self.longest),
        ):
            if type(value) is not int or value < 1:
                raise InvalidActorOption(name, value, "must be an integer of at least 1")
        for name, chosen, known in (
            ("backoff", self.backoff, ("exponential", "fixed")),
            ("jitter", self.jitter, get_args(Jitter)),
        ):
            if chosen not in known:
                raise InvalidActorOption(name, chosen, f"must be one of {', '.join(known)}")

    @classmethod
    def of(cls, queue: QueueSettings) -> RetryPolicy:
        """The queue's."""
        backoff = queue.backoff
        return cls(
            attempts=queue.attempts,
            backoff=backoff.type,
            delay=backoff.delay,
            longest=backoff.longest,
            jitter=backoff.jitter,
        )

    def wait_ms(self, retries: int) -> int:
        """The wait before the retry that follows ``retries`` of them, spread by the jitter."""
        doubled = 2 ** min(retries, _EXPONENT) if self.backoff == "exponential" else 1
        wait = min(self.delay * doubled, self.longest)
        least, most = _SPREAD[self.jitter]
        if wait * most > self.longest:  # stay below it, and spread all the same
            least, most = (least / most, 1.0)
            wait = self.longest
        return round(wait * random.uniform(least, most))  # noqa: S311 - no secret


_SPREAD: Final[Mapping[Jitter, tuple[float, float]]] = {
    "added": (1.0, 2.0),
    "equal": (0.5, 1.0),
    "full": (0.0, 1.0),
    "none": (1.0, 1.0),
}


class PolicyRetries(Retries):
    """Takes the place of Dramatiq's Retries, with its options and meaning, and three more.

    ``retry_on``: exceptions; a job that raises another one is buried at once.
    ``never_retry``: exceptions; a job that raises one of them is buried at once.
    ``retry_policies``: exception -> :class:`RetryPolicy`, the first that matches.

    An exception matches by its class or by that of any it was raised from. Attempts and waits
    are, in this order, those of the exception's policy, of the message, of the actor, of the
    queue. ``Retry(delay=ms)`` says its wait itself.
    """

    def __init__(self, policy_of: Callable[[str], RetryPolicy]) -> None:
        """``policy_of`` a queue, by its name."""
        super().__init__()
        self.policy_of = policy_of

    @property
    def actor_options(self) -> set[str]:
        return {*super().actor_options, "retry_on", "never_retry", "retry_policies"}

    def before_declare_actor(self, broker: Broker, actor: Actor[Any, Any]) -> None:
        """Raises InvalidActorOption for what is no exception or no policy."""
        for name in ("retry_on", "never_retry"):
            if name in actor.options:
                _check_exceptions(name, actor.options[name])
        policies = actor.options.get("retry_policies", {})
        if not isinstance(policies, Mapping):
            raise InvalidActorOption("retry_policies", policies, "must map exceptions to policies")
        for exception, policy in policies.items():
            _check_exceptions("retry_policies", exception)
            if not isinstance(policy, RetryPolicy):
                rule = f"must map {exception.__name__} to a RetryPolicy"
                raise InvalidActorOption("retry_policies", policy, rule)

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        if exception is None:
            return
        actor = broker.get_actor(message.actor_name)
        if self._is_final(message, actor, exception):
            self.logger.info("Aborting message %r.", message.message_id)
            if isinstance(message, Delivery):
                message.reason = "rejected"
            message.fail()
            return
        retries = message.options.get("retries", 0)
        message.options["retries"] = retries + 1
        message.options["traceback"] = traceback.format_exc(limit=_FRAMES)
        message.options["requeue_timestamp"] = int(time.time() * 1000)
        policy = self._policy(message, actor, exception)
        if self._is_exhausted(retries, policy, actor, exception):
            self.logger.warning("Retries exceeded for message %r.", message.message_id)
            message.fail()
            self._tell(broker, message, actor, retries, policy)
            return
        said = exception.delay if isinstance(exception, Retry) else None
        delay = policy.wait_ms(retries) if said is None else said
        self.logger.info("Retrying message %r in %d milliseconds.", message.message_id, delay)
        broker.enqueue(cast(Message[Any], message), delay=delay)

    def _is_final(
        self, message: MessageProxy, actor: Actor[Any, Any], exception: BaseException
    ) -> bool:
        throws = message.options.get("throws") or actor.options.get("throws")
        if throws and isinstance(exception, throws):
            return True
        if isinstance(exception, _CONTROL):
            return False
        if _matches(exception, actor.options.get("never_retry", ())):
            return True
        return "retry_on" in actor.options and not _matches(exception, actor.options["retry_on"])

    def _policy(
        self, message: MessageProxy, actor: Actor[Any, Any], exception: BaseException
    ) -> RetryPolicy:
        """What holds for this failure; its ``attempts`` are None for any number."""
        policy = self.policy_of(message.queue_name)
        for options in (actor.options, message.options):
            if "max_retries" in options:
                most = options["max_retries"]
                policy = replace(policy, attempts=None if most is None else 1 + max(0, most))
            if options.get("min_backoff"):
                policy = replace(policy, delay=max(1, int(options["min_backoff"])))
            if options.get("max_backoff"):
                policy = replace(policy, longest=max(1, int(options["max_backoff"])))
        policies: Mapping[Exceptions, RetryPolicy] = actor.options.get("retry_policies", {})
        for kind, own in policies.items():
            if _matches(exception, kind):
                attempts = policy.attempts if own.attempts is None else own.attempts
                return replace(own, attempts=attempts)
        return policy

    def _is_exhausted(
        self,
        retries: int,
        policy: RetryPolicy,
        actor: Actor[Any, Any],
        exception: BaseException,
    ) -> bool:
        retry_when = actor.options.get("retry_when")
        if retry_when is not None:
            return not retry_when(retries, exception)
        return policy.attempts is not None and retries + 1 >= policy.attempts

    def _tell(
        self,
        broker: Broker,
        message: MessageProxy,
        actor: Actor[Any, Any],
        retries: int,
        policy: RetryPolicy,
    ) -> None:
        name = message.options.get("on_retry_exhausted") or actor.options.get("on_retry_exhausted")
        if name:
            most = None if policy.attempts is None else policy.attempts - 1
            counts = {"retries": retries, "max_retries": most}
            broker.get_actor(name).send(message.asdict(), counts)


def _check_exceptions(name: str, value: object) -> None:
    kinds = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        raise InvalidActorOption(name, value, "must be exception classes")


def _matches(exception: BaseException, kinds: Exceptions) -> bool:
    return any(isinstance(each, kinds) for each in _chain(exception))


def _chain(exception: BaseException) -> Iterator[BaseException]:
    """The exception, and what it was raised from."""
    seen: set[int] = set()
    cause: BaseException | None = exception
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__
