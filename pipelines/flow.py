"""The definition of a flow: named steps, what each waits for, and what follows on every end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from dramatiq import Message

from broker.errors import InvalidOption

#: What a step's failure means. fail: nothing more is released, what is done is undone, and the
#: flow has failed. continue: the rest runs, without the missing result, and the flow has failed
#: all the same. ignore: as if the step had succeeded with None.
Policy: TypeAlias = Literal["fail", "continue", "ignore"]

MOST_STEPS: Final = 1_000
MOST_MESSAGES: Final = 100_000
_POLICIES: Final = ("fail", "continue", "ignore")
# Their own ways of chaining would run beside the flow's, and a message that another one stands
# for would never end the step.
_REFUSED_OPTIONS: Final = ("pipe_target", "group_completion_uuid", "deduplication_key")


class InvalidFlow(InvalidOption):
    """The definition breaks a rule; nothing was enqueued."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its branches run in parallel, and it ends with the last of them."""

    name: str
    messages: tuple[Message[Any], ...]
    after: tuple[str, ...]
    #: Several branches, so that its result is the list of theirs.
    parallel: bool
    #: Waits for a list of steps and is given the list of their results.
    joins: bool
    policy: Policy
    #: One for each branch, or none.
    undo: tuple[Message[Any], ...]


@dataclass(frozen=True, slots=True)
class Hooks:
    """What is sent when the flow has ended; each is given how it ended."""

    success: list[Message[Any]] = field(default_factory=list)
    failure: list[Message[Any]] = field(default_factory=list)
    finish: list[Message[Any]] = field(default_factory=list)


class Flow:
    """A directed graph of steps, built from the first to the last.

    A step that comes ``after`` another is given that one's result as its last positional
    argument, as in Dramatiq's pipelines: of a parallel step the list of its branches' results,
    after a list of steps the list of theirs. A message with ``pipe_ignore=True`` is given
    nothing. ``time_limit`` is milliseconds for the whole; None: no limit.

    Every method raises :class:`InvalidFlow` for what breaks a rule, and names field, value
    and rule.
    """

    def __init__(self, name: str, *, time_limit: int | None = None) -> None:
        _check_name("name", name)
        if time_limit is not None and (type(time_limit) is not int or time_limit < 1):
            raise InvalidFlow("time_limit", time_limit, "must be milliseconds, 1 or more")
        self.name = name
        self.time_limit = time_limit
        self.hooks = Hooks()
        self._steps: dict[str, Step] = {}
        self._size = 0

    @property
    def steps(self) -> Sequence[Step]:
        """In the order they were added, so each comes after those it waits for."""
        return tuple(self._steps.values())

    def step(
        self,
        name: str,
        message: Message[Any],
        *,
        after: str | Sequence[str] = (),
        policy: Policy = "fail",
        undo: Message[Any] | None = None,
    ) -> Flow:
        """Add a step of one message. ``undo`` runs if the flow fails after the step succeeded,
        and is given the step's result."""
        undos = () if undo is None else (undo,)
        return self._add(name, (message,), after, policy, undos, parallel=False)

    def parallel(
        self,
        name: str,
        messages: Iterable[Message[Any]],
        *,
        after: str | Sequence[str] = (),
        policy: Policy = "fail",
        undo: Iterable[Message[Any]] = (),
    ) -> Flow:
        """Add a step of several branches, at least one. ``undo`` has one message for each branch,
        or none."""
        return self._add(name, tuple(messages), after, policy, tuple(undo), parallel=True)

    def on_success(self, message: Message[Any]) -> Flow:
        """Send it when the flow has succeeded."""
        return self._hook(self.hooks.success, message)

    def on_failure(self, message: Message[Any]) -> Flow:
        """Send it when the flow has ended otherwise: failed, cancelled or out of time."""
        return self._hook(self.hooks.failure, message)

    def on_finish(self, message: Message[Any]) -> Flow:
        """Send it when the flow has ended, however."""
        return self._hook(self.hooks.finish, message)

    def _hook(self, hooks: list[Message[Any]], message: Message[Any]) -> Flow:
        self._count("hook", (message,))
        hooks.append(message)
        return self

    def _add(
        self,
        name: str,
        messages: tuple[Message[Any], ...],
        after: str | Sequence[str],
        policy: Policy,
        undo: tuple[Message[Any], ...],
        *,
        parallel: bool,
    ) -> Flow:
        _check_name("step", name)
        if name in self._steps:
            raise InvalidFlow("step", name, "must be a name that no other step has")
        if len(self._steps) == MOST_STEPS:
            raise InvalidFlow("step", name, f"must not be more than the {MOST_STEPS}th step")
        if policy not in _POLICIES:
            raise InvalidFlow("policy", policy, f"must be one of {', '.join(_POLICIES)}")
        if not messages:
            raise InvalidFlow(name, messages, "must have at least one message")
        if undo and len(undo) != len(messages):
            raise InvalidFlow(f"{name}.undo", len(undo), f"must be none or {len(messages)}")
        self._count(name, (*messages, *undo))
        before = (after,) if isinstance(after, str) else tuple(after)
        for each in before:
            if each not in self._steps:
                raise InvalidFlow(f"{name}.after", each, "must be a step added before")
        if len(set(before)) < len(before):
            raise InvalidFlow(f"{name}.after", before, "must not name a step twice")
        joins = not isinstance(after, str) and bool(before)
        self._steps[name] = Step(name, messages, before, parallel, joins, policy, undo)
        return self

    def _count(self, field: str, messages: Iterable[Message[Any]]) -> None:
        for message in messages:
            for option in _REFUSED_OPTIONS:
                if option in message.options:
                    raise InvalidFlow(f"{field}.{option}", message.options[option], "not in a flow")
            self._size += 1
        if self._size > MOST_MESSAGES:
            raise InvalidFlow(field, self._size, f"must be at most {MOST_MESSAGES} messages in all")


def chain(
    name: str, *parts: Message[Any] | Sequence[Message[Any]], time_limit: int | None = None
) -> Flow:
    """A flow of steps one after the other; a list of messages is a parallel step.

    Steps are named by their actors; the second of a name is ``name-2``.

    Raises:
      InvalidFlow: it has no steps, or breaks another rule of :class:`Flow`.
    """
    if not parts:
        raise InvalidFlow("parts", parts, "must be at least one message")
    flow = Flow(name, time_limit=time_limit)
    before: str | tuple[()] = ()
    seen: dict[str, int] = {}
    for part in parts:
        messages = [part] if isinstance(part, Message) else list(part)
        actor = messages[0].actor_name if messages else "parallel"
        seen[actor] = seen.get(actor, 0) + 1
        step = actor if seen[actor] == 1 else f"{actor}-{seen[actor]}"
        if isinstance(part, Message):
            flow.step(step, part, after=before)
        else:
            flow.parallel(step, messages, after=before)
        before = step
    return flow


def _check_name(field: str, name: object) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= 200:
        raise InvalidFlow(field, name, "must be a name of 1 to 200 characters")
