"""For an application's own tests: what was sent, and running it when the test says so.

Set ``HEADRACE_MODE=inline`` before the application is imported, or build an
:class:`~broker.inline.InlineBroker` with the middleware that you want.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from dramatiq import Actor, Broker, Message

from broker import entry
from broker.clock import MovableClock
from broker.errors import NotInline
from broker.inline import Ended, InlineBroker
from broker.inline_producer import Waiting

_MOST_RUNS: Final = 10_000


@contextmanager
def held(broker: Broker) -> Iterator[HeldJobs]:
    """Within it, what is sent waits until the test runs it.

    Raises:
      NotInline: the broker is another one than an InlineBroker.
    """
    if not isinstance(broker, InlineBroker):
        raise NotInline("held() needs HEADRACE_MODE=inline; it")
    jobs = HeldJobs(broker)
    with broker.dispatched_by(jobs):
        yield jobs


class HeldJobs:
    """The messages that were sent since the test began, and those of them that wait."""

    def __init__(self, broker: InlineBroker) -> None:
        self._broker = broker
        self._sent: list[Message[Any]] = []
        self._waiting: list[Waiting] = []

    @property
    def clock(self) -> MovableClock:
        """What delays and retries go by. The code under test has another one, the machine's."""
        return self._broker.clock

    @property
    def failed(self) -> list[Ended]:
        """The jobs that failed for good."""
        return list(self._broker.failed)

    def put(self, waiting: Waiting) -> None:
        """Called by the broker for what is sent."""
        self._sent.append(self._broker.decoded(waiting))
        self._waiting.append(waiting)

    def sent(self) -> None:
        """Called by the broker after each send: what was sent waits."""

    def sent_messages(self, actor: Actor[..., Any] | str | None = None) -> list[Message[Any]]:
        """What was sent, in its order, as a worker would get it; to one actor, or to any."""
        name = actor.actor_name if isinstance(actor, Actor) else actor
        return [each for each in self._sent if name in (None, each.actor_name)]

    def assert_enqueued(
        self, actor: Actor[..., Any] | str, *args: Any, **kwargs: Any
    ) -> Message[Any]:
        """The last message to the actor that has these arguments; any arguments if none are given.

        Raises:
          AssertionError: there is none; it shows what was sent to the actor.
        """
        sent: list[Message[Any]] = self.sent_messages(actor)
        wanted = _as_sent(actor, args, kwargs) if args or kwargs else None
        found = [m for m in sent if wanted is None or wanted == [list(m.args), m.kwargs]]
        if found:
            return found[-1]
        name = actor.actor_name if isinstance(actor, Actor) else actor
        shown = "\n".join(f"  {name}{each.args}{each.kwargs or ''}" for each in sent) or "  nothing"
        raise AssertionError(f"not sent to {name}: {args} {kwargs}; sent was\n{shown}")

    def assert_not_enqueued(self, actor: Actor[..., Any] | str) -> None:
        """
        Raises:
          AssertionError: something was sent to the actor.
        """
        sent = self.sent_messages(actor)
        assert not sent, f"sent all the same: {sent}"  # noqa: S101 - that is its purpose

    def run_due(self) -> int:
        """Run what is due by the clock, and what that sends; returns how many runs it took."""
        runs = 0
        while (following := self._next()) is not None and following.due_ms <= self.clock.now_ms():
            runs = self._run(following, runs)
        return runs

    def run_until_empty(self) -> int:
        """Run everything, and move the clock on to what waits; returns how many runs it took.

        Raises:
          AssertionError: ten thousand runs were not enough.
        """
        runs = 0
        while (following := self._next()) is not None:
            self.clock.advance(max(0, following.due_ms - self.clock.now_ms()))
            runs = self._run(following, runs)
        return runs

    def _next(self) -> Waiting | None:
        """The earliest; of those that are due the highest priority."""
        now_ms = self.clock.now_ms()
        due = [each for each in self._waiting if each.due_ms <= now_ms]
        if due:
            return min(due, key=lambda each: -each.level)
        return min(self._waiting, key=lambda each: each.due_ms, default=None)

    def _run(self, waiting: Waiting, runs: int) -> int:
        assert runs < _MOST_RUNS, "the jobs go on sending jobs"  # noqa: S101 - see above
        self._waiting.remove(waiting)
        again = self._broker.run(waiting)
        if again is not None:
            self._waiting.append(again)
        return runs + 1


def _as_sent(
    actor: Actor[..., Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[Any]:
    """The arguments as they come out of a queue."""
    if isinstance(actor, Actor):
        message = actor.message(*args, **kwargs)
        args, kwargs = message.args, message.kwargs
    found: list[Any] = entry.load_json(entry.dump_json([list(args), kwargs]))
    return found
