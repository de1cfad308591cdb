"""What a message of a flow carries, and what a hook is told of the end."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, Final, Literal, TypeAlias

import msgspec

from broker.flow_commands import FlowFound

#: The message option that holds a :class:`FlowStep`.
OPTION: Final = "flow"

#: running, until the last step. stopping: it failed, was cancelled or ran out of time, and what
#: is under way ends. compensating: what was done is undone. The others are final.
FlowState: TypeAlias = Literal[
    "running", "stopping", "compensating", "completed", "failed", "cancelled", "timed_out"
]
FINAL: Final = frozenset({"completed", "failed", "cancelled", "timed_out"})

#: A message of the flow, whose result it is; or the first of a step's branches and how many
#: there are, which makes a list.
Source: TypeAlias = int | tuple[int, int]


class FlowStep(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message's part in its flow."""

    #: The text of its :class:`broker.outbox.Place`.
    at: str
    kind: Literal["step", "undo", "hook"] = "step"
    #: Whose results it is given as its last argument; empty for none.
    takes: tuple[Source, ...] = ()
    #: The argument is the list of them, however many there are.
    joins: bool = False
    #: It is given the flow's :class:`FlowOutcome` instead.
    outcome: bool = False

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First message and count of each source."""
        return [(each, 1) if isinstance(each, int) else each for each in self.takes]


class FlowOutcome(msgspec.Struct, frozen=True):
    """How a flow ended."""

    id: str
    name: str
    state: FlowState
    #: The step that failed first, and why; None when none did.
    failed_step: str | None = None
    error: str | None = None


def pretend_pipe(options: MutableMapping[str, Any]) -> None:
    """While a step runs: Dramatiq's worker complains of a result that no pipe takes."""
    if OPTION in options:
        options["pipe_target"] = {}


def forget_pipe(options: MutableMapping[str, Any]) -> None:
    """The inverse, before anybody takes it for a pipe."""
    if OPTION in options:
        options.pop("pipe_target", None)


def place_in(options: Mapping[str, Any]) -> str:
    """The text of the place in a flow that a message's options name; empty for none."""
    option = options.get(OPTION)
    place = option.get("at") if isinstance(option, dict) else None
    return place if isinstance(place, str) else ""


def argument(step: FlowStep, results: list[Any]) -> Any:
    """The argument: a result, or lists of them."""
    left = iter(results)
    values = [
        next(left) if isinstance(each, int) else [next(left) for _ in range(each[1])]
        for each in step.takes
    ]
    return values if step.joins else values[0]


def outcome(flow_id: str, found: FlowFound) -> FlowOutcome:
    """What hooks are told of a flow that has ended."""
    fields = found.fields
    number, error = fields.get("failed_step"), fields.get("error")
    return FlowOutcome(
        flow_id,
        fields["name"].decode(),
        msgspec.convert(fields["state"].decode(), FlowState),
        None if number is None else step_name(found, int(number)),
        None if error is None else error.decode("utf-8", "replace"),
    )


def step_name(found: FlowFound, number: int) -> str:
    name: str = msgspec.msgpack.decode(found.fields[str(number)])["name"]
    return name
