"""The part of a run's page that shows the Pareto front of its sweep. Pure."""

from __future__ import annotations

import math

from raydc.report import charts, sheet
from raydc.report.axes import Axis, number_text
from raydc.report.charts import Series
from raydc.report.markup import Markup, join, table, tag
from raydc.report.sheet import Part
from raydc.report.sweep_record import SweepRecord, TrialRecord
from raydc.search.goals import pareto_front
from raydc.tracking.trials import format_values

_MOST_POINTS = 500


def pareto_part(sweep: SweepRecord) -> Part | None:
    """Metric over each cost, with the trials of the front; None for a sweep of one objective.

    Args:
        sweep: Content of its files.
    """
    goals = sweep.goals
    known = [one for one in sweep.trials if set(goals.costs) <= set(one.costs)]
    if not goals.objectives or not known:
        return None
    metrics, costs = [one.metric for one in known], [one.costs for one in known]
    front = [known[number] for number in pareto_front(metrics, costs, goals, sweep.mode)]
    limits = [f"{name} at most {number_text(most)}" for name, most in goals.constraints.items()]
    within = f" Constraints: {', '.join(limits)}." if limits else ""
    said = (
        f"{len(front)} of {len(sweep.trials)} trials: no other is as good in every way and better "
        f"in one.{within} Each has a spec in sweep/front/."
    )
    drawings = [
        tag("div", _chart(sweep, name, known, front), class_="card") for name in goals.objectives
    ]
    return Part(
        "front", "Pareto front", join(tag("p", said), sheet.grid(*drawings), _table(sweep, front))
    )


def _chart(
    sweep: SweepRecord, cost: str, known: list[TrialRecord], front: list[TrialRecord]
) -> Markup:
    # A failed trial has no metric, and so no place.
    others = [one for one in known if one.metric is not None and one not in front]
    series = [_points([one], cost, f"trial {one.number}") for one in others[:_MOST_POINTS]]
    if front:
        by_cost = sorted(front, key=lambda one: (one.costs[cost], one.number))
        series.append(_points(by_cost, cost, "Pareto front"))
    shown, limit = [*others, *front], sweep.goals.constraints.get(cost)
    limits = [] if limit is None else [limit]
    xs = Axis.over([*(one.costs[cost] for one in shown), *limits], may_be_log=True)
    ys = Axis.over([one.metric for one in shown if one.metric is not None])
    series += [Series("limit", [at, at], [ys.low, ys.high], is_guide=True) for at in limits]
    title = f"{sweep.metric} over {cost}"
    x_title = f"{cost} (log)" if xs.is_log else cost
    return charts.line_chart(title, series, x_title, sweep.metric, y_axis=ys, x_axis=xs)


def _points(trials: list[TrialRecord], cost: str, name: str) -> Series:
    return Series(
        name,
        [one.costs[cost] for one in trials],
        [math.nan if one.metric is None else one.metric for one in trials],
        marks=True,
        is_background=name != "Pareto front",
    )


def _table(sweep: SweepRecord, front: list[TrialRecord]) -> Markup:
    names = sweep.goals.costs
    rows = [
        [
            str(one.number),
            number_text(one.metric),
            *(number_text(one.costs[name]) for name in names),
            format_values(one.values),
        ]
        for one in front
    ]
    numeric = set(range(2 + len(names)))
    return table(["trial", sweep.metric, *names, "values"], rows, numeric)
