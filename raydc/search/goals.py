"""What a sweep wants beside a good metric: costs that are small, or within limits. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raydc.spec.sweep_section import Sweep


@dataclass(frozen=True)
class Goals:
    """Costs of points, by name, of which less is better.

    Attributes:
        objectives: Costs that are made small while the metric is made good.
        constraints: Most of each cost that a point may have.
    """

    objectives: tuple[str, ...] = ()
    constraints: Mapping[str, float] = field(default_factory=dict)

    @property
    def costs(self) -> tuple[str, ...]:
        """The costs that have to be known, each once."""
        return tuple(dict.fromkeys((*self.objectives, *self.constraints)))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; empty without goals, as in journals that are older than goals."""
        given = {"objectives": list(self.objectives), "constraints": dict(self.constraints)}
        return {name: value for name, value in given.items() if value}

    def excess(self, costs: Mapping[str, float]) -> dict[str, float]:
        """What of a point is above its limit, by cost.

        Args:
            costs: What the point costs. What is not known is above no limit.
        """
        return {
            name: costs[name]
            for name, most in self.constraints.items()
            if name in costs and costs[name] > most
        }


NO_GOALS = Goals()


def goals_of(sweep: Sweep) -> Goals:
    """What a sweep wants beside a good metric.

    Args:
        sweep: Section `sweep` of a spec.
    """
    limits = {str(name): most for name, most in sweep.constraints.items()}
    return Goals(tuple(sweep.objectives), limits)


def pareto_front(
    metrics: Sequence[float | None], costs: Sequence[Mapping[str, float]], goals: Goals, mode: str
) -> list[int]:
    """Trials than which no other is as good in every way and better in one.

    Args:
        metrics: Metric of each trial; None for one that has none.
        costs: What each trial costs.
        goals: Whose objectives count beside the metric. A trial above a limit is in no front.
        mode: Whether the largest or the smallest metric is the best: `max` or `min`.

    Returns:
        Numbers of the trials, the best metric first; of equal trials the first one only.
    """
    sign = -1.0 if mode == "max" else 1.0
    points = {
        number: (sign * metric, *(costs[number][name] for name in goals.objectives))
        for number, metric in enumerate(metrics)
        if metric is not None and not goals.excess(costs[number])
    }
    front: list[int] = []
    # Whoever dominates another comes before it.
    for number in sorted(points, key=lambda number: (points[number], number)):
        mine = points[number]
        if not any(_is_no_worse(points[other], mine) for other in front):
            front.append(number)
    return front


def _is_no_worse(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(mine <= its for mine, its in zip(one, other, strict=True))
