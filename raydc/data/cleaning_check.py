"""Checks that the cleaning of columns fits what the columns hold. Runs in the driver."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping

from raydc.errors import DataError, did_you_mean
from raydc.spec.sections import ColumnCleaning, Data

_FILLS = ("constant", "mean", "median", "most_frequent")


def check_cleaning(data: Data, columns: Collection[str], kinds: Mapping[str, str]) -> None:
    """Refuses a policy of `data.clean` that its column cannot follow.

    Args:
        data: Section `data` of the spec.
        columns: Names of all columns of the source.
        kinds: Kind of each input column by its name: `numeric`, `categorical`, `text` or `image`.

    Raises:
        DataError: A named column is not an input, or is of a kind that the policy is not for.
    """
    for name, own in data.clean.columns.items():
        path = f"data.clean.columns.{name}"
        if name not in columns:
            advice = did_you_mean(name, columns, starts_sentence=True)
            there = f"There are {', '.join(columns)}."
            raise DataError(f"{path}: there is no such column", f"{advice} {there}".lstrip())
        if name not in kinds:
            hint = "data.clean.missing_target is for the target." if name == data.target else None
            raise DataError(f"{path}: {name!r} is not an input column", hint)
        for fault in _own_faults(own, kinds[name]):
            raise DataError(f"{path}.{fault} for a column that is {kinds[name]}")
    for name, kind in kinds.items():
        constant = data.clean.of(name).constant
        if kind == "numeric" and constant is not None and not _is_number(constant):
            raise DataError(
                f"data.clean: the constant {constant!r} is not a number, which {name!r} needs",
                f"Give the column its own: data.clean.columns: {{{name}: {{missing: ..., "
                "constant: ...}}",
            )


def _own_faults(own: ColumnCleaning, kind: str) -> Iterator[str]:
    if own.missing in ("mean", "median") and kind != "numeric":
        yield f"missing: there is no {own.missing}"
    if own.missing in _FILLS and kind == "image":
        yield "missing: an image cannot be filled in: there is drop or error"
    if own.missing in _FILLS and kind == "text":
        yield "missing: a missing text has no tokens: there is impute, drop or error"
    if own.missing in _FILLS and kind == "list":
        yield "missing: a missing list has no items: there is impute, drop or error"
    if own.outliers not in (None, "keep") and kind != "numeric":
        yield "outliers: there are no outliers"
    if own.indicator and kind != "numeric":
        yield "indicator: there is none"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
