"""A figure of the benchmark: ours, the peer's, their ratio, and what it should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

TIMES: Final = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure should reach; a bound on the ratio to the peer, or on ours alone."""

    of: Literal["ratio", "ours"]
    sign: Literal["≥", "≤"]
    bound: float

    def met_by(self, figure: Figure) -> bool | None:
        """None where there is nothing to judge."""
        value = figure.ratio if self.of == "ratio" else figure.ours
        if value is None:
            return None
        return value >= self.bound if self.sign == "≥" else value <= self.bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table."""

    name: str
    #: For the reader.
    title: str
    ours: float
    #: None: nobody to compare with.
    peer: float | None
    peer_name: str
    unit: str
    better: Literal["more", "less"] = "more"
    target: Target | None = None

    @property
    def ratio(self) -> float | None:
        """Ours by the peer's."""
        return None if not self.peer else self.ours / self.peer

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target."""
        return None if self.target is None else self.target.met_by(self)

    @property
    def target_text(self) -> str:
        """The target as it is written in the table; empty without one."""
        if self.target is None:
            return ""
        unit = TIMES if self.target.of == "ratio" else f" {self.unit}"
        return f"{self.target.sign} {self.target.bound:g}{unit}"


def at_least(times: float) -> Target:
    """So many times what the peer does, or more."""
    return Target("ratio", "≥", times)


def at_most_times(times: float) -> Target:
    """So many times what the peer needs, or less."""
    return Target("ratio", "≤", times)


def at_most(bound: float) -> Target:
    """So much in the figure's unit, or less."""
    return Target("ours", "≤", bound)


def at_least_a_second(bound: float) -> Target:
    """So much in the figure's unit, or more."""
    return Target("ours", "≥", bound)


def written(value: float) -> str:
    """A number with as many digits as mean something."""
    if abs(value) >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def steps_a_second(name: str, title: str, ours: float, peer: float, peer_name: str) -> Figure:
    """A rate of pipelines' steps beside that of Dramatiq's own, of which it should be twice."""
    return Figure(
        name=name,
        title=title,
        ours=ours,
        peer=peer,
        peer_name=peer_name,
        unit="steps/s",
        target=at_least(2),
    )


def jobs_a_second(
    name: str, title: str, ours: float, peer: float, peer_name: str, times: float | None = None
) -> Figure:
    """A rate beside the peer's, of which it should be so many times."""
    return Figure(
        name=name,
        title=title,
        ours=ours,
        peer=peer,
        peer_name=peer_name,
        unit="jobs/s",
        target=None if times is None else at_least(times),
    )
