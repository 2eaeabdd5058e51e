"""The parts of a run's page that show its sweep: curves, fields, importances, decisions. Pure."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from raydc.report import charts, sheet
from raydc.report.axes import Axis, number_text
from raydc.report.charts import Series
from raydc.report.markup import Markup, join, table, tag
from raydc.report.parallel_axes import FieldAxis, TrialLine, parallel_chart
from raydc.report.pareto_part import pareto_part
from raydc.report.sheet import Part
from raydc.report.sweep_record import SweepRecord, TrialRecord, choice_text
from raydc.search.importances import FEWEST_TRIALS, find_importances
from raydc.search.learned_points import Observation
from raydc.search.method import PROMOTION
from raydc.search.point import all_domains
from raydc.tracking.trials import format_values

_NUM_NAMED = 5
# The year 10,000.
_NO_TIME_S = 253_402_300_800.0
_MOST_LINES, _MOST_ROWS = 500, 500
# With more than this many rows a table is behind a line that opens it.
_NUM_OPEN = 60


def sweep_parts(sweep: SweepRecord) -> list[Part]:
    """The parts of a sweep, in the order of the page.

    Args:
        sweep: Content of its files.
    """
    front = pareto_part(sweep)
    return [
        Part("trials", "Trials", join(_summary(sweep), _curves(sweep), _trial_table(sweep))),
        *([front] if front else []),
        Part("space", "Where the good trials are", _parallel(sweep)),
        Part("fields", "Which fields matter", _importances(sweep)),
        Part("decisions", "Decisions", _decisions(sweep)),
    ]


def _summary(sweep: SweepRecord) -> Markup:
    states = [trial.state for trial in sweep.trials]
    said = [
        f"{states.count('finished')} trained to the end",
        f"{states.count('pruned')} stopped before",
        *([f"{states.count('failed')} failed"] if "failed" in states else []),
    ]
    said += [
        f"{states.count(state)} {word}"
        for state, word in (("running", "running"), ("waiting", "waiting for the others"))
        if state in states
    ]
    if again := sum(trial.twin is not None for trial in sweep.trials):
        said.append(f"{again} drawn again and run once")
    best = sweep.ranked()[0]
    score = f" The best is trial {best.number}: {_result(sweep, best)}."
    score = "" if best.metric is None else score
    trials = f"{len(states)} trials"
    if sweep.num_samples is not None:
        trials = f"{len(states)} of {sweep.num_samples} trials"
        trials = f"The sweep has not ended{_when(sweep.time_s)}. {trials}"
    return tag("p", f"{trials}: {', '.join(said)}.{score}")


def _when(time_s: float | None) -> str:
    # A number of a damaged file may be no time.
    if time_s is None or not 0 <= time_s < _NO_TIME_S:
        return ""
    return time.strftime(" at %Y-%m-%d %H:%M:%S UTC", time.gmtime(time_s))


def _result(sweep: SweepRecord, trial: TrialRecord) -> str:
    epochs = f"{trial.epochs} epoch{'' if trial.epochs == 1 else 's'}"
    return f"{sweep.metric} {number_text(trial.metric)} after {epochs}"


def _curves(sweep: SweepRecord) -> Markup | None:
    """The metric of all trials by epoch: the best with names, the others behind them."""
    ranked = [trial for trial in sweep.ranked() if trial.curve and trial.twin is None]
    # What was trained to the end is what a reader compares.
    named = sorted(ranked, key=lambda trial: trial.state != "finished")[:_NUM_NAMED]
    others = [trial for trial in ranked if trial not in named][:_MOST_LINES]
    series = [_series(trial, is_background=True) for trial in reversed(others)]
    series += [_series(trial, is_background=False) for trial in named]
    if not series:
        return None
    epochs = Axis.over([0.0, *(epoch for one in series for epoch in one.x)])
    title = f"{sweep.metric} of the trials by epoch"
    chart = charts.line_chart(title, series, "epoch", sweep.metric, x_axis=epochs)
    note = tag("p", "Grey: the other trials, up to where they were stopped.", class_="dim")
    return sheet.grid(tag("div", chart, note if others else None, class_="card"))


def _series(trial: TrialRecord, is_background: bool) -> Series:
    epochs = sorted(trial.curve)
    values = [trial.curve[epoch] for epoch in epochs]
    return Series(
        f"trial {trial.number}",
        [float(epoch) for epoch in epochs],
        [float("nan") if value is None else value for value in values],
        marks=not is_background and len(epochs) <= 40,
        is_background=is_background,
    )


def _trial_table(sweep: SweepRecord) -> Markup:
    paths = list(dict.fromkeys(path for trial in sweep.trials for path in trial.values))
    ranked = sweep.ranked()
    rows = []
    for place, trial in enumerate(ranked[:_MOST_ROWS]):
        again = "" if trial.twin is None else f"trial {trial.twin} drawn again. "
        rows.append(
            [
                "best" if place == 0 and trial.metric is not None else "",
                str(trial.number),
                # A section in the words of the terminal: `sgd(momentum=0.9)`.
                *(
                    _value_text(trial.values[path]) if path in trial.values else ""
                    for path in paths
                ),
                number_text(trial.metric),
                *(number_text(trial.costs.get(name)) for name in sweep.goals.costs),
                str(trial.epochs),
                trial.state,
                _line(again + trial.why),
            ]
        )
    costs = sweep.goals.costs
    titles = ["", "trial", *paths, sweep.metric, *costs, "epochs", "state", "why"]
    numeric = {1, *range(len(paths) + 2, len(paths) + 4 + len(costs))}
    return _folded(f"all {len(ranked)} trials, the best first", titles, rows, numeric, len(ranked))


def _value_text(value: Any) -> str:
    return format_values({"": value}).removeprefix("=")


def _line(text: str) -> Markup:
    """Text on one line: in a narrow column it would make rows tall."""
    return tag("span", text, class_="nw")


def _folded(
    name: str, titles: list[Any], rows: list[list[Any]], numeric: set[int], num_rows: int
) -> Markup:
    """A table; behind a line if it is long, and without the rows that would be too many."""
    shown = table(titles, rows, numeric)
    if len(rows) < num_rows:
        shown = join(shown, tag("p", f"The first {len(rows)} of {num_rows}.", class_="dim"))
    if len(rows) <= _NUM_OPEN:
        return shown
    return tag("details", tag("summary", name), shown)


def _parallel(sweep: SweepRecord) -> Markup:
    domains, titles = all_domains(sweep.space), sweep.titles()
    ranked = [one for one in sweep.ranked() if one.numbers and one.twin is None]
    ranked = [one for one in ranked if one.metric is not None][:_MOST_LINES]
    if len(ranked) < 2:
        return Markup("")
    axes = []
    for name, domain in domains.items():
        if domain.values is None:
            low, high = domain.bounds
            axis = Axis(low, high, domain.is_logarithmic) if low < high else Axis.over([low])
            axes.append(FieldAxis(titles[name], axis))
        else:
            axes.append(FieldAxis(titles[name], values=tuple(map(choice_text, domain.values))))
    costs = [name for name in sweep.goals.costs if all(name in one.costs for one in ranked)]
    for name in costs:
        axis = Axis.over([one.costs[name] for one in ranked], may_be_log=True)
        axes.append(FieldAxis(name, axis))
    metrics = [one.metric for one in ranked if one.metric is not None]
    # The best is at the top, whether that is the largest or the smallest.
    axes.append(FieldAxis(sweep.metric, Axis.over(metrics), is_flipped=sweep.mode == "min"))
    lines = [
        TrialLine(
            f"trial {one.number}: {_result(sweep, one)}; {format_values(one.values)}",
            [
                *(one.numbers.get(name) for name in domains),
                *(one.costs[name] for name in costs),
                one.metric,
            ],
            1 - place / (len(ranked) - 1),
            is_best=place == 0,
        )
        for place, one in enumerate(ranked)
    ]
    text = (
        "A line for each trial; the better the metric, the stronger the line. The best one has a "
        "colour of its own."
    )
    left = sum(one.twin is None for one in sweep.trials) - len(ranked)
    more = f" {left} trials without a metric are left out." if left else ""
    chart = parallel_chart("Values and metric of each trial", axes, list(reversed(lines)))
    return join(tag("p", text + more), tag("div", chart, class_="card"))


def _importances(sweep: SweepRecord) -> Markup:
    # What has no result yet is not the worst of all.
    compared = [
        one
        for one in sweep.trials
        if one.numbers
        and one.twin is None
        and (one.state not in ("running", "waiting") or one.first_metric is not None)
    ]
    # All have trained as long as this, whatever was decided later.
    is_first = sweep.method is not None
    results = [
        Observation(one.numbers, one.first_metric if is_first else one.metric) for one in compared
    ]
    found = find_importances(sweep.space, results, sweep.mode) if sweep.space else None
    if found is None:
        if len(results) >= FEWEST_TRIALS:
            return tag("p", "Importances need trials whose metrics differ.")
        return tag(
            "p",
            f"Importances need {FEWEST_TRIALS} different trials, and this sweep has "
            f"{len(results)}.",
        )
    titles = sweep.titles()
    rows = [(titles[name], share, f"{share:.0%}") for name, share in found.shares.items()]
    epochs = sweep.method.epochs[0] if sweep.method else 0
    after = f" after {epochs} epoch{'' if epochs == 1 else 's'}" if epochs else ""
    text = (
        f"How far the values of the best {found.num_best} of {found.num_trials} trials{after} are "
        "from those of all (PED-ANOVA). Few trials make it rough, and a field that good trials "
        "agree on by chance looks important."
    )
    return join(tag("p", text), sheet.grid(sheet.card("Importance", charts.bar_list(rows))))


def _decisions(sweep: SweepRecord) -> Markup:
    if sweep.method is None:
        return Markup("")
    last = len(sweep.method.epochs) - 1
    rows: list[list[Any]] = [
        [
            str(one["number"]),
            str(one["trial"]),
            str(one["epochs"]),
            number_text(one["metric"]),
            _fate(one, one["rung"] == last, sweep.method.type == PROMOTION),
            _line(_reason(one, one["rung"] == last)),
        ]
        for one in sweep.decisions[:_MOST_ROWS]
    ]
    rungs = ", ".join(map(str, sweep.method.epochs))
    text = (
        f"Trials are compared after {rungs} epochs, in the order in which they were sampled; the "
        "numbers are those of the journal. How many may go on grows with the trials that are there."
    )
    if last == 0:
        text = f"All trials run to their end, after {rungs} epochs; nothing is decided before."
    titles = ["number", "trial", "epochs", sweep.metric, "then it", "because"]
    num_rows = len(sweep.decisions)
    return join(
        tag("p", text), _folded(f"all {num_rows} results", titles, rows, {0, 1, 2, 3}, num_rows)
    )


def _reason(one: dict[str, Any], is_last: bool) -> str:
    """Why a trial goes on or not: `place 9 of 12 after 1 epoch, 4 go on`."""
    after = f"after {one['epochs']} epoch{'' if one['epochs'] == 1 else 's'}"
    if one["rank"] is None:
        return f"no metric {after}"
    said = f"place {one['rank']} of {one['place']} {after}"
    if is_last:
        return said
    others = [number for number in one["goes_on"] if number != one["trial"]]
    # A result may be what lets a trial go on that came before.
    more = f"; {_names(others)} now" if others else ""
    return f"{said}, {one['quota']} go{'es' if one['quota'] == 1 else ''} on{more}"


def _fate(one: dict[str, Any], is_last: bool, is_promotion: bool) -> str:
    if is_last:
        return "is at the end"
    if one["trial"] in one["goes_on"]:
        return "goes on"
    return "waits" if is_promotion and one["rank"] is not None else "stops"


def _names(numbers: Sequence[int]) -> str:
    which = ", ".join(map(str, numbers))
    return f"trial {which} goes on" if len(numbers) == 1 else f"trials {which} go on"
