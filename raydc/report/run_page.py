"""The page of one run: how it learnt, how good its model is, where it fails, what it cost. Pure."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from raydc.report import charts, model_parts, sheet
from raydc.report.axes import Axis, number_text
from raydc.report.charts import Series
from raydc.report.class_tables import confusion_part
from raydc.report.markup import Markup, join, table, tag
from raydc.report.run_record import Curve, RunRecord
from raydc.report.sheet import Part
from raydc.report.sweep_parts import sweep_parts
from raydc.report.sweep_record import section
from raydc.tracking import time_account
from raydc.tracking.time_account import Account

_NUM_EVENTS = 60
_MAX_MARKS = 40


def render(run: RunRecord, made_by: str) -> str:
    """Draws the page, as HTML.

    Args:
        run: Content of the run's files, from `run_record.read`.
        made_by: Last line of the page: program and time, from `run_report.made_by`.
    """
    scores = {
        name: value for name, value in run.evaluation.items() if isinstance(value, int | float)
    }
    num_rows = scores.pop("num_rows", None)
    split = run.evaluation.get("split", "")
    # The metric that chose the model comes first.
    names = sorted(scores, key=lambda name: (name != run.metric, name))
    said = [
        join(
            tag("b" if name == run.metric else "span", f"{name} {number_text(scores[name])}"),
            " · " if name != names[-1] else "",
        )
        for name in names
    ]
    lead = join(
        tag("p", said, f" on {num_rows:,} {split} rows" if num_rows else "") if said else None,
        tag("p", _summary(run), class_="dim"),
        [
            tag("p", f"{name} could not be read and is left out.", class_="dim")
            for name in run.damaged
        ],
    )
    # The steps of a sweep are those of its trials.
    is_silent = run.sweep is not None and not run.curves
    parts = [
        *(sweep_parts(run.sweep) if run.sweep else ()),
        None if is_silent else Part("curves", "Curves", curves_part([run])),
        confusion_part(run),
        model_parts.calibration_part(run),
        model_parts.importance_part(run),
        model_parts.slices_part(run),
        model_parts.worst_part(run),
        None if is_silent else Part("time", "Where the time went", time_part([run])),
        _events(run),
        Part("spec", "Spec and data", _spec(run)),
    ]
    return sheet.page(
        f"Run {run.name}", lead, [part for part in parts if part and part.body], made_by
    )


def _summary(run: RunRecord) -> str:
    model, data = section(run.spec, "model"), section(run.spec, "data")
    name = model.get("name") or model.get("builder") or "model"
    target = f"{data.get('task', '')} of {data.get('target', '')}"
    steps = f"{run.account.useful_steps:,} steps" if run.account.useful_steps else ""
    wall = f"{run.account.wall_s:,.1f} s" if run.account.wall_s else ""
    parts = (str(name), target, steps, wall)
    return ", ".join(part for part in parts if part.strip(" of"))


def curves_part(runs: Sequence[RunRecord]) -> Markup:
    """A chart for each quantity that the runs have logged, with a line for each run."""
    names = list(dict.fromkeys(name for run in runs for name in run.curves))
    # What a reader looks for first: the loss, and the metric that chose the model.
    first = ["train/loss", "validation/loss", f"validation/{runs[0].metric}"]
    ordered = [name for name in first if name in names]
    ordered += [name for name in names if name not in ordered]
    if len(runs) == 1:
        return sheet.grid(*_own_curves(runs[0], ordered))
    figures = []
    for name in ordered:
        series = [_series(run.name, run.curves[name]) for run in runs if name in run.curves]
        figures.append(_chart(_curve_title(name), series, name))
    return sheet.grid(*(tag("div", figure, class_="card") for figure in figures))


def _own_curves(run: RunRecord, names: Sequence[str]) -> list[Markup]:
    losses = {
        "each step, training": run.curves.get("train/loss"),
        "epoch, training": run.curves.get("epoch/loss"),
        "validation": run.curves.get("validation/loss"),
    }
    series = [_series(name, curve) for name, curve in losses.items() if curve]
    figures = [_chart("Loss", series, "loss")] if series else []
    for name in names:
        if name not in ("train/loss", "epoch/loss", "validation/loss"):
            shown = [_series(name, run.curves[name])]
            figures.append(_chart(_curve_title(name), shown, name))
    if not figures:
        return [tag("p", "This run has not logged a step.")]
    return [tag("div", figure, class_="card") for figure in figures]


def _chart(title: str, series: Sequence[Series], name: str) -> Markup:
    # All charts begin at step 0, so that they can be compared with each other.
    steps = Axis.over([0.0, *(step for one in series for step in one.x)])
    y_title = "learning rate" if name == "train/lr" else name.rpartition("/")[2]
    return charts.line_chart(title, series, "step", y_title, x_axis=steps)


def _curve_title(name: str) -> str:
    return {"train/lr": "Learning rate", "train/loss": "Loss of each step"}.get(
        name, name.replace("/", ": ")
    )


def _series(name: str, curve: Curve) -> Series:
    is_noisy = "each step" in name
    few = len(curve.steps) <= _MAX_MARKS
    return Series(name, curve.steps, curve.values, marks=few, is_faint=is_noisy)


def time_part(runs: Sequence[RunRecord]) -> Markup:
    """Seconds of each phase of each run."""
    if len(runs) == 1:
        account = runs[0].account
        rows = [
            (name.replace("_", " "), account.seconds[name], _seconds_text(account, name))
            for name in time_account.NAMES
        ]
        lines = time_account.format_lines(account)
        more = [tag("p", line) for line in lines[1:]]
        return sheet.grid(
            sheet.card(f"{account.wall_s:,.1f} s in all", charts.bar_list(rows), more)
        )
    rows_of = [
        [
            run.name,
            f"{run.account.wall_s:,.1f}",
            *(f"{run.account.seconds[name]:,.1f}" for name in time_account.NAMES),
        ]
        for run in runs
    ]
    titles = ["run", "all", *(name.replace("_", " ") for name in time_account.NAMES)]
    return join(
        tag("p", "Seconds by phase."), table(list(titles), rows_of, set(range(1, len(titles))))
    )


def _seconds_text(account: Account, name: str) -> str:
    share = account.seconds[name] / account.wall_s if account.wall_s else 0.0
    return f"{account.seconds[name]:,.1f} s ({share:.0%})"


def _events(run: RunRecord) -> Part | None:
    # A run without failures has no more to tell than its start.
    told = [one for one in run.events if one["kind"] != "run_finished"]
    if len(told) < 2 and not any(one["kind"] != "attempt_started" for one in told):
        return None
    rows = [
        [_clock(one), one["kind"].replace("_", " "), _details(one)] for one in told[-_NUM_EVENTS:]
    ]
    return Part("events", "What happened", table(["time (UTC)", "event", ""], rows))


def _clock(record: dict[str, Any]) -> str:
    moment = record.get("time_s")
    if not isinstance(moment, int | float):
        return ""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment))
    except (ValueError, OverflowError, OSError):
        return ""


def _details(record: dict[str, Any]) -> str:
    names = ("step", "world_size", "source", "reason", "error", "checkpoint", "trials", "changes")
    said = [f"{name} {record[name]}" for name in names if record.get(name) not in (None, "")]
    return ", ".join(said)[:300]


def _spec(run: RunRecord) -> Markup:
    facts = run.facts
    versions = facts.get("versions") or facts.get("libraries") or {}
    pairs: list[tuple[str, object]] = [
        ("data hash", str(facts.get("data_hash", ""))[:12]),
        ("step of the model", facts.get("step")),
        ("forked from", facts.get("forked_from")),
        ("diagnosed rows", f"{run.diagnosis['judged']:,}" if "judged" in run.diagnosis else None),
    ]
    if isinstance(versions, dict):
        pairs += [(name, str(version)) for name, version in sorted(versions.items())]
    left_out = [tag("p", f"Left out: {text}.") for text in run.diagnosis.get("left_out", [])]
    return join(left_out, sheet.facts(pairs), tag("pre", run.text) if run.text else None)
