"""The page that sets runs side by side: scores, what differs in their specs, curves, time. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raydc.report import charts, sheet
from raydc.report.axes import number_text
from raydc.report.markup import Markup, join, table, tag
from raydc.report.run_page import curves_part, time_part
from raydc.report.run_record import RunRecord, flatten
from raydc.report.sheet import Part

# Fields whose differences do not change the result.
_UNTOLD = ("name", "storage")


def render(runs: Sequence[RunRecord], made_by: str) -> str:
    """Draws the page, as HTML.

    Args:
        runs: Runs to compare, at least two.
        made_by: Last line of the page: program and time, from `run_report.made_by`.
    """
    names = ", ".join(run.name for run in runs)
    parts = [
        Part("scores", "Scores", _scores(runs)),
        Part("differences", "What differs", _differences(runs)),
        Part("curves", "Curves", curves_part(runs)),
        Part("importance", "What they depend on", _importance(runs)),
        Part("time", "Where the time went", time_part(runs)),
    ]
    shown = [part for part in parts if part.body]
    return sheet.page(f"{len(runs)} runs", tag("p", names, class_="dim"), shown, made_by)


def _scores(runs: Sequence[RunRecord]) -> Markup:
    found = [
        {
            name: value
            for name, value in run.evaluation.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        for run in runs
    ]
    names = list(dict.fromkeys(name for scores in found for name in scores if name != "num_rows"))
    rows: list[list[Any]] = [
        [
            run.name,
            run.evaluation.get("split", "not evaluated"),
            f"{scores['num_rows']:,}" if "num_rows" in scores else "",
            *(number_text(scores[name]) if name in scores else "" for name in names),
            f"{run.account.useful_steps:,}",
        ]
        for run, scores in zip(runs, found, strict=True)
    ]
    hashes = {str(run.facts.get("data_hash")) for run in runs if run.facts.get("data_hash")}
    text = "The runs were trained on different data sets: their scores are for different rows."
    note = tag("p", text) if len(hashes) > 1 else None
    titles = ["run", "split", "rows", *names, "steps"]
    return join(note, table(titles, rows, set(range(2, len(titles)))))


def _differences(runs: Sequence[RunRecord]) -> Markup:
    specs = [flatten(run.spec) for run in runs]
    paths = list(dict.fromkeys(path for spec in specs for path in spec))
    rows: list[list[Any]] = []
    for path in paths:
        values = [spec.get(path) for spec in specs]
        if path not in _UNTOLD and any(value != values[0] for value in values):
            rows.append([path, *("" if value is None else str(value) for value in values)])
    if not rows:
        return tag("p", "Their specs differ in nothing but their names.")
    return table(["field", *(run.name for run in runs)], rows)


def _importance(runs: Sequence[RunRecord]) -> Markup:
    cards = []
    for number, run in enumerate(runs):
        columns = run.diagnosis.get("importance", {}).get("columns", [])[:10]
        if columns:
            bars = [(one["column"], one["rise"], number_text(one["rise"])) for one in columns]
            cards.append(sheet.card(run.name, charts.bar_list(bars, colour=number)))
    return sheet.grid(*cards) if cards else Markup("")
