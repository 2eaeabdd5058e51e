"""Scores of each class, and which classes a model confuses. Pure."""

from __future__ import annotations

from typing import Any, TypeGuard

from raydc.report import charts, sheet
from raydc.report.markup import Markup, join, table, tag
from raydc.report.run_record import RunRecord
from raydc.report.sheet import Part

# A larger matrix is unreadable; the most frequent confusions are listed instead.
_MAX_MATRIX = 20
_NUM_CONFUSIONS = 20
_MAX_CLASSES = 60


def confusion_part(run: RunRecord) -> Part | None:
    """Confusion matrix and scores by class; None for a regression, or before the evaluation."""
    if run.diagnosis.get("task") == "multilabel":
        return _labels_part(run)
    matrix, support = run.evaluation.get("confusion_matrix"), run.evaluation.get("support")
    if not _is_matrix(matrix) or not isinstance(support, dict) or len(support) != len(matrix):
        return None
    # The names in `support` are sorted, so they cannot label the matrix.
    classes = list(run.classes)
    if len(classes) != len(matrix):
        return None
    cards = [
        sheet.card("Most frequent confusions", _confusions(matrix, classes)),
        sheet.card("Scores by class", _scores(matrix, classes)),
    ]
    body = sheet.grid(*cards)
    if len(matrix) <= _MAX_MATRIX:
        note = tag("p", "Rows are true classes, columns are answers.")
        body = join(sheet.card("Confusion matrix", note, _matrix(matrix, classes)), body)
    return Part("classes", "Classes", body)


def _labels_part(run: RunRecord) -> Part | None:
    """Scores of each label."""
    per_class, support = run.evaluation.get("per_class"), run.evaluation.get("support")
    if not isinstance(per_class, dict) or not isinstance(support, dict):
        return None
    rows: list[list[Any]] = []
    for name in run.classes:
        found = per_class.get(name, {})
        rates = [found.get(key) for key in ("precision", "recall", "f1", "auroc")]
        shown = [_percent(rate if isinstance(rate, int | float) else None) for rate in rates]
        rows.append([name, *shown, f"{support.get(name, 0):,}"])
    rows.sort(key=_f1_key)
    titles = ["label", "precision", "recall", "F1", "AUROC", "rows"]
    body = table(titles, rows[:_MAX_CLASSES], {1, 2, 3, 4, 5})
    return Part("classes", "Labels", sheet.grid(sheet.card("Scores by label", body)))


def _is_matrix(value: Any) -> TypeGuard[list[list[int]]]:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(row, list) and len(row) == len(value) for row in value)
        and all(isinstance(count, int | float) for row in value for count in row)
    )


def _matrix(matrix: list[list[int]], classes: list[str]) -> Markup:
    head = tag("tr", tag("th", ""), [tag("th", name, scope="col") for name in classes])
    rows: list[Markup] = []
    for name, counts in zip(classes, matrix, strict=True):
        total = sum(counts) or 1
        cells = [
            tag("td", f"{count:,}", style=_shade(count / total, position == len(rows)))
            for position, count in enumerate(counts)
        ]
        rows.append(tag("tr", tag("th", name, scope="row"), cells))
    body = tag("table", tag("thead", head), tag("tbody", rows), class_="matrix")
    return tag("div", body, class_="scroll", tabindex="0")


def _shade(share: float, is_right: bool) -> str | None:
    if not share:
        return None
    colour = "var(--s2)" if is_right else "var(--s1)"
    # The square root keeps small shares visible.
    return f"background:color-mix(in srgb,{colour} {60 * share**0.5:.0f}%,transparent)"


def _confusions(matrix: list[list[int]], classes: list[str]) -> Markup:
    wrong = sorted(
        (
            (-count, row, column)
            for row, counts in enumerate(matrix)
            for column, count in enumerate(counts)
            if row != column and count
        )
    )[:_NUM_CONFUSIONS]
    if not wrong:
        return tag("p", "Every answer is right.")
    bars = [
        (f"{classes[row]} taken for {classes[column]}", float(-count), f"{-count:,}")
        for count, row, column in wrong
    ]
    return charts.bar_list(bars, colour=1)


def _scores(matrix: list[list[int]], classes: list[str]) -> Markup:
    rows: list[list[Any]] = []
    for position, name in enumerate(classes):
        right = matrix[position][position]
        support, answered = sum(matrix[position]), sum(row[position] for row in matrix)
        recall = right / support if support else None
        precision = right / answered if answered else None
        both = 2 * right / (support + answered) if support + answered else None
        rows.append([name, *map(_percent, (precision, recall, both)), f"{support:,}"])
    # The weakest first, because they are what a reader looks for.
    order = sorted(range(len(rows)), key=lambda at: _f1_key(rows[at]))[:_MAX_CLASSES]
    return table(
        ["class", "precision", "recall", "F1", "rows"], [rows[at] for at in order], {1, 2, 3, 4}
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _f1_key(row: list[Any]) -> float:
    return -1.0 if row[3] == "-" else float(row[3].rstrip("%"))
