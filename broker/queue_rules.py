"""What holds for each queue of a broker: how much of it runs, waits and is kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

from broker.checks import check_int
from broker.errors import InvalidOption
from broker.limits import QueueDepth, QueueLimit
from broker.retention import DeadRetention, Retention

T = TypeVar("T")
#: By the names of queues; None knows none.
Rules: TypeAlias = Mapping[str, T] | None


class QueueRules:
    """The rules that a broker was given, checked.

    Raises:
      InvalidOption: one of them breaks its bound; names the rule and its queue.
    """

    def __init__(
        self,
        *,
        concurrency: Rules[int],
        limits: Rules[QueueLimit],
        depths: Rules[QueueDepth],
        dead_letters: Rules[DeadRetention],
        dead_message_ttl: int,
        retention: Rules[Retention],
    ) -> None:
        for queue, most in _rules("concurrency", concurrency):
            check_int(f"concurrency[{queue!r}]", most, 1)
        _check("limits", limits, QueueLimit, global_concurrency=1, rate=1, per_ms=1)
        _check("depths", depths, QueueDepth, max_depth=1, block_ms=0)
        _check("dead_letters", dead_letters, DeadRetention, age_ms=0, count=0)
        _check("retention", retention, Retention)
        self._concurrency = concurrency
        self._limits = limits
        self._depths = depths
        self._dead_letters = dead_letters
        self._dead_by_default = DeadRetention(dead_message_ttl)
        self._retention = retention

    def concurrency(self, queue: str) -> int | None:
        """The most jobs of it that run at once in this process."""
        return _of(self._concurrency, queue)

    def limit(self, queue: str) -> QueueLimit | None:
        """What holds for it over all processes."""
        return _of(self._limits, queue)

    def depth(self, queue: str) -> QueueDepth | None:
        """How long it may become."""
        return _of(self._depths, queue)

    def dead_retention(self, queue: str) -> DeadRetention:
        """Which of its dead letters stay."""
        found = _of(self._dead_letters, queue)
        return self._dead_by_default if found is None else found

    def retention(self, queue: str) -> Retention:
        """Which records of its ended jobs stay."""
        found = _of(self._retention, queue)
        return Retention() if found is None else found


def _rules(name: str, rules: Rules[Any]) -> Iterable[tuple[str, Any]]:
    if rules is None:
        return ()
    if not isinstance(rules, Mapping):
        raise InvalidOption(name, rules, "must be a mapping of queues' names")
    return rules.items()


def _check(name: str, rules: Rules[Any], kind: type[Any], **least: int) -> None:
    for queue, rule in _rules(name, rules):
        if not isinstance(rule, kind):
            raise InvalidOption(f"{name}[{queue!r}]", rule, f"must be a {kind.__name__}")
        for bound, at_least in least.items():
            value = getattr(rule, bound)
            if value is not None:
                check_int(f"{name}[{queue!r}].{bound}", value, at_least)


def _of(rules: Rules[T], queue: str) -> T | None:
    if rules is None:
        return None
    try:
        return rules[queue]  # not get(): the mapping may know a default of its own
    except KeyError:
        return None
