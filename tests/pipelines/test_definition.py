"""What a flow may look like, and what is refused before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from dramatiq import Message

from pipelines.flow import MOST_MESSAGES, MOST_STEPS, Flow, InvalidFlow, chain

PANIC: Any = "panic"


def message(actor: str = "add", **options: Any) -> Message[Any]:
    return Message("work", actor, (), {}, options)


def test_a_chain_is_steps_one_after_the_other_named_by_their_actors() -> None:
    flow = chain("sum", message("load"), [message(), message()], message("load"))
    assert [(step.name, step.after, step.parallel) for step in flow.steps] == [
        ("load", (), False),
        ("add", ("load",), True),
        ("load-2", ("add",), False),
    ]
    assert not any(step.joins for step in flow.steps)


def test_a_list_of_steps_before_makes_a_join_even_of_one() -> None:
    flow = Flow("f").step("a", message()).step("b", message(), after=["a"])
    flow.step("c", message(), after="a")
    assert [step.joins for step in flow.steps] == [False, True, False]


def build(*names: str) -> Flow:
    flow = Flow("f")
    for name in names:
        flow.step(name, message())
    return flow


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Flow(""), "name: must be a name"),
        (lambda: Flow("f", time_limit=0), "time_limit: must be milliseconds, 1 or more, got 0"),
        (lambda: Flow("f", time_limit=True), "time_limit: .* got True"),
        (lambda: build("a", "a"), "step: must be a name that no other step has, got 'a'"),
        (lambda: build("x" * 201), "step: must be a name of 1 to 200"),
        (lambda: Flow("f").step("a", message(), after="b"), "a.after: must be a step added before"),
        (lambda: build("a").step("b", message(), after=["a", "a"]), "b.after: must not name a"),
        (lambda: Flow("f").parallel("a", []), "a: must have at least one message"),
        (
            lambda: Flow("f").parallel("a", [message()] * 2, undo=[message()]),
            "a.undo: must be none or 2, got 1",
        ),
        (lambda: Flow("f").step("a", message(), policy=PANIC), "policy: must be one of fail, "),
        (lambda: Flow("f").step("a", message(pipe_target={})), "a.pipe_target: not in a flow"),
        (
            lambda: Flow("f").on_finish(message(deduplication_key="k")),
            "hook.deduplication_key: not in a flow, got 'k'",
        ),
        (lambda: chain("f"), "parts: must be at least one message"),
        (lambda: chain("f", []), "parallel: must have at least one message"),
        (lambda: build(*map(str, range(MOST_STEPS + 1))), f"more than the {MOST_STEPS}th"),
        (
            lambda: Flow("f").parallel("a", [message()] * (MOST_MESSAGES + 1)),
            f"at most {MOST_MESSAGES} messages",
        ),
    ],
)
def test_a_broken_rule_is_named_with_its_field_and_value(
    make: Callable[[], object], said: str
) -> None:
    with pytest.raises(InvalidFlow, match=said):
        make()
