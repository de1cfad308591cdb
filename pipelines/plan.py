"""From a flow's definition to what its scripts read: numbered steps, numbered messages."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, Literal, TypeAlias

import msgspec
from dramatiq import Message

from broker.flow_step import OPTION, FlowStep, Source
from pipelines.flow import Flow, Step

Kind: TypeAlias = Literal["step", "undo", "hook"]
#: Of so many results none has to be asked for.
MOST_GIVEN: Final = 8

_pack = msgspec.msgpack.Encoder().encode


@dataclasses.dataclass(slots=True)
class Numbered:
    """A step with its number, from 1, and the first of its messages, from 0."""

    number: int
    kind: Kind
    name: str
    first: int
    messages: tuple[Message[Any], ...]
    parallel: bool = False
    policy: str = "ignore"
    takes: tuple[Source, ...] = ()
    joins: bool = False
    needs: int = 0
    #: The step that undoes it; 0 for none.
    undo: int = 0
    #: Of one that undoes: the first message of what it undoes.
    undoes: int = 0
    next: list[int] = dataclasses.field(default_factory=list)

    def packed(self) -> bytes:
        """As ``flow.lua`` reads it."""
        return _pack(
            {
                "kind": self.kind,
                "name": self.name,
                "first": self.first,
                "size": len(self.messages),
                "next": self.next,
                "needs": self.needs,
                "policy": self.policy,
                "undo": self.undo,
                **self._given(),
                "queues": sorted({message.queue_name for message in self.messages}),
            }
        )

    def _given(self) -> dict[str, list[int]]:
        """The messages whose results its own are given, if they are few."""
        spans = [(each, 1) if isinstance(each, int) else each for each in self.takes]
        if self.kind != "step" or sum(count for _, count in spans) > MOST_GIVEN:
            return {}
        return {"given": [first + n for first, count in spans for n in range(count)]}


class Plan:
    """All steps of a flow in the order of their numbers: its own, those that undo, its hooks."""

    def __init__(self, flow: Flow, flow_id: str) -> None:
        self.flow = flow
        self.id = flow_id
        self.steps: list[Numbered] = []
        self._size = 0
        by_name = {step.name: self._add("step", step.name, step.messages) for step in flow.steps}
        for step in flow.steps:
            _connect(step, by_name)
        for step in flow.steps:
            if step.undo:
                self._add_undo(step, by_name[step.name])
        hooks = flow.hooks
        self.hooks = {
            "success": [self._add_hook("on_success", each) for each in hooks.success],
            "failure": [self._add_hook("on_failure", each) for each in hooks.failure],
            "finish": [self._add_hook("on_finish", each) for each in hooks.finish],
        }

    @property
    def roots(self) -> list[int]:
        return [step.number for step in self.steps if step.kind == "step" and not step.needs]

    def messages(self, flow: str) -> Iterator[Message[Any]]:
        """Every message in the order of its number, as it is sent; ``flow`` is the key of the flow.

        Its id is the flow's and its number, its option ``flow`` says what it is given.
        """
        for step in self.steps:
            for index, message in enumerate(step.messages):
                number = step.first + index
                takes = (step.undoes + index,) if step.kind == "undo" else step.takes
                ignores = bool(message.options.get("pipe_ignore"))
                part = FlowStep(
                    at=f"{flow}/{step.number}/{number}",
                    kind=step.kind,
                    takes=() if ignores else takes,
                    joins=step.joins,
                    outcome=step.kind == "hook" and not ignores,
                )
                options = {**message.options, OPTION: msgspec.to_builtins(part)}
                yield dataclasses.replace(
                    message, message_id=f"{self.id}-{number}", options=options
                )

    def _add(self, kind: Kind, name: str, messages: tuple[Message[Any], ...]) -> Numbered:
        step = Numbered(len(self.steps) + 1, kind, name, self._size, messages)
        self.steps.append(step)
        self._size += len(messages)
        return step

    def _add_undo(self, step: Step, done: Numbered) -> None:
        undo = self._add("undo", f"undo {step.name}", step.undo)
        undo.undoes, done.undo = done.first, undo.number

    def _add_hook(self, name: str, message: Message[Any]) -> int:
        return self._add("hook", name, (message,)).number


def home_of(flow: Flow) -> str:
    """The queue beside which the state lies: that of the most messages, so that most ends and
    what they release are one settlement."""
    queues = Counter(message.queue_name for step in flow.steps for message in step.messages)
    return queues.most_common(1)[0][0]


def _connect(step: Step, by_name: dict[str, Numbered]) -> None:
    made = by_name[step.name]
    made.policy, made.parallel, made.joins = step.policy, step.parallel, step.joins
    made.needs = len(step.after)
    made.takes = tuple(_source(by_name[name]) for name in step.after)
    for name in step.after:
        by_name[name].next.append(made.number)


def _source(step: Numbered) -> Source:
    return (step.first, len(step.messages)) if step.parallel else step.first
