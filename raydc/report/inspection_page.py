"""The page of `raydc inspect`: what to look at, then each column with its distribution. Pure."""

from __future__ import annotations

import numpy as np

from raydc.data.column_profile import ColumnProfile, NumberProfile, numbers_of
from raydc.data.inspection import InspectedColumn, Inspection
from raydc.data.shards import SPLITS
from raydc.data.suspicions import Suspicion
from raydc.data.values import Floats
from raydc.report import charts, sheet
from raydc.report.axes import number_text
from raydc.report.column_texts import distinct_text, summary_text
from raydc.report.markup import Markup, join, table, tag
from raydc.report.sheet import Part

_QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
_NUM_COLUMNS = 30
_NUM_TOP = 10
# Range in interquartile distances from which on a chart leaves the ends out: nearly all rows would
# be in one column.
_LONG_TAIL = 20.0


def render(found: Inspection, suspicions: list[Suspicion], made_by: str) -> str:
    """Draws the page, as HTML.

    Args:
        found: Result of `inspection.run`.
        suspicions: What a person should look at, from `suspicions.find`.
        made_by: Last line of the page: program and time, from `run_report.made_by`.
    """
    total = sum(found.num_rows.values())
    rows = ", ".join(f"{split} {count:,}" for split, count in found.num_rows.items())
    dropped = f"; {found.num_dropped:,} dropped" if found.num_dropped else ""
    lead = join(
        tag("p", f"{found.source}. {total:,} rows: {rows}{dropped}.", class_="dim"),
        tag(
            "p",
            f"{len(found.columns) - 1:,} inputs; the target is ",
            tag("b", found.target.name),
            f" ({found.task}).",
        ),
    )
    parts = [
        Part("look", "What to look at", _suspicions(found, suspicions)),
        Part("target", "Target", sheet.grid(_card(found, found.target), _balance(found))),
        Part("inputs", "Inputs", sheet.grid(*(_card(found, one) for one in found.columns[1:]))),
        Part("all", "All columns", _overview(found)),
        Part("copies", "Equal rows", _copies(found)),
        Part("how", "How this was measured", _how(found)),
    ]
    return sheet.page(f"Data of {found.name}", lead, parts, made_by)


def _suspicions(found: Inspection, suspicions: list[Suspicion]) -> Markup:
    items = [tag("li", tag("b", one.about), " ", one.text, class_=one.level) for one in suspicions]
    notes = [tag("li", note) for note in found.notes]
    nothing = tag("p", "Nothing stands out.") if not items and not notes else None
    excluded = (
        tag("p", f"Left out by the spec, and not looked at: {', '.join(found.excluded)}.")
        if found.excluded
        else None
    )
    return join(tag("ul", items, notes, class_="found"), nothing, excluded)


def _card(found: Inspection, column: InspectedColumn) -> Markup:
    whole = column.whole
    pairs: list[tuple[str, object]] = [
        ("missing", _missing_text(found, whole)),
        ("distinct values", distinct_text(whole)),
    ]
    if whole.numbers is not None:
        pairs += _number_facts(whole.numbers)
        body = _histogram(found, column)
    elif whole.categories:
        body = _top_values(whole)
    else:
        body = Markup("")
    if whole.pixels is not None:
        one = whole.pixels
        pairs.append(("largest", f"{one.height} x {one.width}, {one.channels} channel(s)"))
        body = _pixels(column)
    pairs += [(f"{found.measure} alone", "" if column.power is None else f"{column.power:.3f}")]
    pairs += [("drift (PSI)", _drift_text(column))]
    return sheet.card(column.name, body, sheet.facts(pairs), badge=column.kind)


def _missing_text(found: Inspection, whole: ColumnProfile) -> str:
    total = sum(found.num_rows.values())
    return (
        f"{whole.num_missing:,} ({whole.num_missing / max(1, total):.1%})"
        if whole.num_missing
        else "none"
    )


def _number_facts(numbers: NumberProfile) -> list[tuple[str, object]]:
    mean, deviation = numbers.sums.mean_and_deviation()
    low, high = numbers.sums.low, numbers.sums.high
    quantiles = numbers.quantiles(_QUANTILES)
    return [
        ("lowest, highest", f"{number_text(low)}, {number_text(high)}"),
        (
            "mean, deviation",
            f"{number_text(mean)}, {number_text(0.0 if low == high else deviation)}",
        ),
        (
            "quantiles",
            ", ".join(
                f"{fraction:.0%}\N{NO-BREAK SPACE}{number_text(value)}"
                for fraction, value in zip(_QUANTILES, quantiles, strict=True)
            ),
        ),
    ]


def _drift_text(column: InspectedColumn) -> str:
    return ", ".join(
        f"{split} {psi:.3f}" + (" (differs)" if split in column.drifted else "")
        for split, psi in column.psi.items()
    )


def _histogram(found: Inspection, column: InspectedColumn) -> Markup:
    numbers = column.whole.numbers
    assert numbers is not None
    low, high = numbers.sums.low, numbers.sums.high
    least, first, _, third, most = numbers.quantiles(_QUANTILES)
    title = f"{column.name}: distribution"
    if high - low > _LONG_TAIL * (third - first) > 0 and most > least:
        low, high = least, most
        title = f"{column.name}: distribution between the 1% and the 99% quantile"
    if low == high:
        return tag("p", f"Every value is {number_text(low)}.")
    edges = _edges(numbers, low, high)
    parts = [
        (split, _shares(profile.numbers, edges))
        for split, profile in zip(SPLITS, column.profiles, strict=True)
        if profile.numbers is not None and found.num_rows[split]
    ]
    return charts.column_chart(title, edges.tolist(), parts, column.name)


def _edges(numbers: NumberProfile, low: float, high: float) -> Floats:
    few = numbers.distinct
    is_whole = few is not None and all(float(one).is_integer() for one in few)
    # Each column holds equally many whole numbers, so that none looks twice as frequent.
    if is_whole and high - low < _NUM_COLUMNS:
        return np.arange(low, high + 2) - 0.5
    if is_whole:
        step = -(-(high - low + 1) // _NUM_COLUMNS)
        return np.arange(low, high + step + 0.5, step) - 0.5
    return np.linspace(low, high, _NUM_COLUMNS + 1)


def _shares(numbers: NumberProfile, edges: Floats) -> list[float]:
    found = numbers_of(np.array(list(numbers.cells), dtype=np.int64))
    # Cells round numbers towards zero, which must not drop the lowest from the chart.
    inside = (found >= edges[0] * (1 - 1e-3 * np.sign(edges[0]))) & (found <= edges[-1])
    counts, _ = np.histogram(
        np.clip(found[inside], edges[0], edges[-1]),
        edges,
        weights=np.array(list(numbers.cells.values()))[inside],
    )
    return [float(count) / numbers.sums.num_values for count in counts]


def _top_values(whole: ColumnProfile) -> Markup:
    total = sum(whole.categories.values())
    ranked = sorted(whole.categories.items(), key=lambda item: (-item[1], item[0]))
    rows = [
        (name or "(empty)", float(count), f"{count:,} ({count / total:.1%})")
        for name, count in ranked[:_NUM_TOP]
    ]
    more = len(ranked) - _NUM_TOP
    rest = total - sum(count for _, count in ranked[:_NUM_TOP])
    last = tag("p", f"{more:,} other values: {rest:,} rows", class_="dim") if more > 0 else None
    return join(charts.bar_list(rows), last)


def _pixels(column: InspectedColumn) -> Markup:
    pixels = column.whole.pixels
    assert pixels is not None
    # 32 columns of eight grey levels each.
    edges = [float(level) for level in range(0, 257, 8)]
    names = ("grey",) if pixels.channels == 1 else ("red", "green", "blue")
    parts = []
    for name, counts in zip(names, pixels.counts, strict=False):
        sums = np.array(counts).reshape(32, 8).sum(axis=1)
        parts.append((name, [float(share) for share in sums / max(1, sums.sum())]))
    return charts.column_chart(f"{column.name}: pixels", edges, parts, "value of a pixel")


def _balance(found: Inspection) -> Markup | None:
    column = found.target
    if column.kind != "categorical":
        return None
    used = [split for split in SPLITS if found.num_rows[split]]
    ranked = sorted(column.whole.categories.items(), key=lambda item: (-item[1], item[0]))
    rows: list[list[object]] = []
    for name, _ in ranked[:25]:
        counts = [column.profiles[SPLITS.index(split)].categories.get(name, 0) for split in used]
        rows.append(
            [
                name,
                *(
                    f"{count / found.num_rows[split]:.1%}"
                    for split, count in zip(used, counts, strict=True)
                ),
            ]
        )
    more = len(ranked) - len(rows)
    rest = tag("p", f"and {more:,} other classes", class_="dim") if more else None
    shares = table(["class", *used], rows, set(range(1, len(used) + 1)))
    return sheet.card("Classes in each split", shares, rest)


def _overview(found: Inspection) -> Markup:
    rows: list[list[object]] = []
    for column in found.columns:
        whole = column.whole
        rows.append(
            [
                column.name,
                "target" if column.is_target else "input",
                column.kind,
                f"{whole.num_missing:,}",
                distinct_text(whole),
                summary_text(whole),
                "" if column.power is None else f"{column.power:.3f}",
                max((f"{psi:.3f}" for psi in column.psi.values()), default=""),
                max((f"{ks:.3f}" for ks in column.ks.values()), default=""),
            ]
        )
    titles = [
        "column",
        "role",
        "type",
        "missing",
        "distinct",
        "values",
        found.measure,
        "PSI",
        "KS",
    ]
    return table(list(titles), rows, {3, 4, 6, 7, 8})


def _copies(found: Inspection) -> Markup:
    copies = found.copies
    rows: list[list[object]] = [
        [f"{split} rows that repeat an earlier {split} row", f"{count:,}"]
        for split, count in zip(SPLITS, copies.repeated, strict=True)
        if found.num_rows[split]
    ]
    for pair, count in copies.across.items():
        first, second = pair.split("/")
        if found.num_rows[first] and found.num_rows[second]:
            rows.append([f"{second} rows whose inputs are in {first} too", f"{count:,}"])
    rows.append(["groups of equal inputs with different targets", f"{copies.conflicts:,}"])
    pairs = [
        *(("in two splits", *places) for places in found.copy_places.values()),
        *(("different targets", *places) for places in found.conflict_places),
    ]
    examples = [[what, first, second] for what, first, second in pairs]
    return join(
        table(["equal inputs", "rows"], rows, {1}),
        tag("p", "Some of them:") if examples else None,
        table(["", "row", "row"], examples) if examples else None,
    )


def _how(found: Inspection) -> Markup:
    if found.measure == "AUC":
        power = (
            "AUC alone: a column is cut into at most 32 bins (or its 256 commonest values); the "
            "share of a class among the training rows of a bin is its score, which is tested on "
            "the other rows. 0.5 is chance, 1 is perfect; for several classes, their mean."
        )
    else:
        power = (
            "R2 alone: a column is cut into at most 32 bins (or its 256 commonest values), "
            "each of which predicts the mean of its training rows; this is scored on the other "
            "rows. 0 is no better than the mean of all rows, 1 is perfect."
        )
    return tag(
        "ul",
        tag("li", power),
        tag(
            "li",
            "PSI is the population stability index between the training rows and another split, "
            "over tenths of a number or the 20 most frequent values: below 0.1 the same, above "
            "0.25 different. “Differs” means above 0.1 and above what chance exceeds once in a "
            "thousand.",
        ),
        tag(
            "li", "KS is the greatest distance between the two distribution functions of a number."
        ),
        tag(
            "li", "Counts, sums, extremes and equal rows are exact; quantiles are exact to 1/4096."
        ),
        tag("li", "Rows are split as ", tag("code", "raydc prepare"), " splits them."),
    )
