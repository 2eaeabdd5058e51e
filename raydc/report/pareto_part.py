"""The Pareto front of a sweep with several objectives: a chart for each cost, and a table. Pure."""

from __future__ import annotations

from raydc.report import charts, sheet
from raydc.report.axes import Axis, number_text
from raydc.report.charts import Series
from raydc.report.markup import Markup, join, table, tag
from raydc.report.sweep_record import SweepRecord, TrialRecord
from raydc.tracking.trials import format_values

_MOST_POINTS = 500


def front_body(sweep: SweepRecord) -> Markup:
    """The front and all other trials by cost and metric; empty without objectives.

    Args:
        sweep: Content of its files.
    """
    front = sweep.front()
    if not front:
        return Markup("")
    text = (
        f"{len(front)} trials than which no other is as good in {sweep.metric} and in "
        f"{' and '.join(sweep.goals.objectives)}, and better in one of them. Each has a spec in "
        "sweep/front/."
    )
    cards = [
        tag("div", _chart(sweep, front, name), class_="card") for name in sweep.goals.objectives
    ]
    costs = sweep.goals.costs
    rows = [
        [
            str(one.number),
            number_text(one.metric),
            *(number_text(one.costs.get(name)) for name in costs),
            format_values(one.values),
        ]
        for one in front
    ]
    titles = ["trial", sweep.metric, *costs, "values"]
    numeric = set(range(len(titles) - 1))
    return join(tag("p", text), sheet.grid(*cards), table(list(titles), rows, numeric))


def _chart(sweep: SweepRecord, front: list[TrialRecord], name: str) -> Markup:
    """All trials by one cost and the metric, with a line through the front."""
    known = [one for one in sweep.ranked() if name in one.costs and one.metric is not None]
    limit = sweep.goals.constraints.get(name)
    shown = known[:_MOST_POINTS]
    numbers = [one.costs[name] for one in shown] + ([] if limit is None else [limit])
    xs = Axis.over(numbers, may_be_log=True)
    ys = Axis.over([one.metric or 0.0 for one in shown])
    # A series of one point is drawn as a dot.
    series = [
        Series(f"trial {one.number}", [one.costs[name]], [one.metric or 0.0], is_background=True)
        for one in shown
    ]
    ordered = sorted(front, key=lambda one: one.costs[name])
    places = [one.costs[name] for one in ordered]
    heights = [one.metric or 0.0 for one in ordered]
    series.append(Series("Pareto front", places, heights, marks=True))
    if limit is not None:
        series.append(Series("limit", [limit, limit], [ys.low, ys.high], is_guide=True))
    x_title = f"{name} (log)" if xs.is_log else name
    title = f"{sweep.metric} and {name}"
    return charts.line_chart(title, series, x_title, sweep.metric, ys, xs)
