"""Sections about a model: how sure it is, what it depends on, and where it fails. Pure."""

from __future__ import annotations

from typing import Any

from raydc.report import charts, sheet
from raydc.report.axes import Axis, number_text
from raydc.report.charts import Series
from raydc.report.markup import Markup, join, table, tag
from raydc.report.run_record import RunRecord
from raydc.report.sheet import Part

_NUM_IMPORTANT = 20
_MAX_CELL_CHARS = 60


def calibration_part(run: RunRecord) -> Part | None:
    """How far the scores of answers can be trusted; None without a diagnosis."""
    found = run.diagnosis.get("calibration")
    if not found or not found.get("bins"):
        return None
    bins = found["bins"]
    said, true = [one["said"] for one in bins], [one["true"] for one in bins]
    judged = f"{run.diagnosis.get('judged', 0):,} {run.diagnosis.get('split', '')} rows"
    has_scores = run.diagnosis.get("task") != "regression"
    if run.diagnosis.get("task") == "multilabel":
        title, x_title, y_title = "Calibration", "score of a label", "share of rows that have it"
        x_axis = y_axis = Axis(0.0, 1.0)
        text = (
            f"Calibration error {found['error']:.3f} in ten bins over each label of {judged}: how "
            "far the score of a label is from the share of rows with such a score that have it."
        )
    elif has_scores:
        title, x_title, y_title = "Calibration", "score of the answer", "share that is right"
        x_axis = y_axis = Axis(0.0, 1.0)
        text = (
            f"Expected calibration error {found['error']:.3f} in ten bins over {judged}: how far "
            "the score of an answer is from the share of such answers that are right, on average. "
            "Points below the diagonal are answers that are too sure."
        )
    else:
        title, x_title, y_title = "Predicted and true values", "predicted", "true, on average"
        x_axis = y_axis = Axis.over([*said, *true])
        text = (
            f"Tenths of {judged} by the value that was predicted: a point above the diagonal is "
            "predicted too low."
        )
    guide = Series("diagonal", [x_axis.low, x_axis.high], [x_axis.low, x_axis.high], is_guide=True)
    line = Series("model", said, true, marks=True)
    chart = charts.line_chart(title, [guide, line], x_title, y_title, y_axis, x_axis)
    cards = [tag("div", chart, class_="card")]
    # For a regression all bins have the same number of rows.
    if has_scores:
        what = "answers" if run.diagnosis.get("task") == "multilabel" else "rows"
        counts = [
            (number_text(one["said"]), one["rows"], f"{one['rows']:,} {what}") for one in bins
        ]
        cards.append(sheet.card(f"{what.capitalize()} by score", charts.bar_list(counts)))
    return Part("calibration", title, join(tag("p", text), sheet.grid(*cards)))


def importance_part(run: RunRecord) -> Part | None:
    """Which columns the answers depend on; None without a diagnosis."""
    cards = []
    shuffled = run.diagnosis.get("importance")
    if shuffled and shuffled["columns"]:
        base = shuffled["base"] or 1.0
        rows = [
            (one["column"], one["rise"], _rise_text(one["rise"] / base, one["spread"] / base))
            for one in shuffled["columns"][:_NUM_IMPORTANT]
        ]
        text = (
            f"How much the loss of {shuffled['rows']:,} rows rises when the values of one column "
            "are shuffled among them (mean and spread of three). Columns with the same "
            "information share it between them."
        )
        cards.append(sheet.card("Permutation importance", tag("p", text), charts.bar_list(rows)))
    gradients = run.diagnosis.get("gradients")
    if gradients:
        rows = [
            (one["column"], one["share"], f"{one['share']:.1%}")
            for one in gradients[:_NUM_IMPORTANT]
        ]
        text = (
            "Share of each column in the size of the integrated gradients, from the mean row to "
            "each row: what moves the output, right or wrong."
        )
        cards.append(
            sheet.card("Integrated gradients", tag("p", text), charts.bar_list(rows, colour=2))
        )
    return Part("importance", "What it depends on", sheet.grid(*cards)) if cards else None


def slices_part(run: RunRecord) -> Part | None:
    """Slices that were asked for, and slices with a higher loss; None without any."""
    body = join(_asked_slices(run), _weak_slices(run))
    return Part("slices", "Slices", body) if body else None


def _asked_slices(run: RunRecord) -> list[Markup]:
    """Scores of `raydc evaluate --slice`."""
    asked = run.evaluation.get("slices")
    tables = []
    for column, by_name in asked.items() if isinstance(asked, dict) else ():
        names = list(
            dict.fromkeys(
                name
                for scores in by_name.values()
                for name, value in scores.items()
                if isinstance(value, int | float) and name != "num_rows"
            )
        )
        rows = [
            [value, f"{scores.get('num_rows', 0):,}", *(number_text(scores.get(n)) for n in names)]
            for value, scores in by_name.items()
        ]
        titles = [column, "rows", *names]
        tables.append(table(titles, rows, set(range(1, len(titles)))))
    return tables


def _weak_slices(run: RunRecord) -> Markup | None:
    found = run.diagnosis.get("slices")
    if found is None:
        return None
    if not found:
        text = "No value of a single column has a higher loss than chance explains."
        return tag("p", text)
    has_accuracy = "accuracy" in found[0]
    rows = [
        [
            f"{one['column']} = {one['value']}",
            f"{one['rows']:,}",
            number_text(one["loss"]),
            *([f"{one['accuracy']:.1%}"] if has_accuracy else []),
            f"{one['errors']:.1f}",
        ]
        for one in found
    ]
    accuracy = ["accuracy"] if has_accuracy else []
    titles = ["rows where", "rows", "loss", *accuracy, "standard errors"]
    text = "Values of one column on which the model does worse than on all rows, beyond chance."
    return join(tag("p", text), table(list(titles), rows, set(range(1, len(titles)))))


def worst_part(run: RunRecord) -> Part | None:
    """Held-out rows with the greatest losses; None without a diagnosis."""
    found = run.diagnosis.get("worst")
    if not found:
        return None
    is_class = "score" in found[0]
    names = list(found[0].get("values", {}))
    has_pictures = "picture" in found[0]
    titles = [*(["picture"] if has_pictures else []), "loss", "true", "answered"]
    titles += [*(["score"] if is_class else []), *names, "row"]
    rows: list[list[Any]] = []
    for one in found:
        shown = [number_text(one["loss"]), _cell(one["expected"]), _cell(one["answered"])]
        if is_class:
            shown.append(f"{one['score']:.3f}")
        values = one.get("values", {})
        shown += [_cell(values.get(name)) for name in names]
        rows.append(
            [
                *([_picture(one)] if has_pictures else []),
                *shown,
                tag("span", one["place"], class_="nw"),
            ]
        )
    text = "Held-out rows with the greatest losses: errors of the model, or of the labels."
    return Part("worst", "Worst rows", join(tag("p", text), table(titles, rows)))


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return number_text(value) if isinstance(value, float) else str(value)[:_MAX_CELL_CHARS]


def _picture(one: dict[str, Any]) -> Markup:
    source = f"data:image/png;base64,{one.get('picture', '')}"
    text = f"{one['expected']}, answered {one['answered']}"
    return tag("img", src=source, alt=text, class_="row")


def _rise_text(rise: float, spread: float) -> str:
    decimals = 0 if abs(rise) >= 0.1 else 1
    return f"{rise:+.{decimals}%} ± {spread:.{decimals}%}"
