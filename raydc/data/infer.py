"""What the columns are: looked at block by block, decided over all of them.

A scan of a block is a small JSON value. Merging scans only adds counts and takes the first place of each fault, so
that the decision is the same however the rows were cut into blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydc.data import values
from raydc.data.sources import Layout
from raydc.errors import DataError, Say, did_you_mean, shown
from raydc.spec.sections import Data

Scan = dict[str, Any]
_MOSTLY_NUMBERS = 0.9


def scan(table: pa.Table) -> Scan:
    """Counts and first faults of one block.

    Returns:
        `first` and `last` row id, `rows`, and for each column its kinds, how many values are `missing`, how many are
        no number (`wrong`), and the first place of each.
    """
    ids = values.row_ids(table)
    names = [name for name in table.column_names if not values.internal(name)]
    columns = (
        {name: _scan_column(values.column_of(table, name), ids) for name in names}
        if len(ids)
        else {}
    )
    return {
        "first": int(ids[0]) if len(ids) else None,
        "last": int(ids[-1]) if len(ids) else None,
        "rows": len(ids),
        "columns": columns,
    }


def _scan_column(column: pa.Array, ids: npt.NDArray[np.int64]) -> dict[str, Any]:
    kind = values.kind_of(column.type)
    if kind == "image":
        missing = values.missing(column)
        first: dict[str, int] = {}
        for index in np.flatnonzero(~missing):
            height, width, channels = (column.field(part)[int(index)].as_py() for part in (1, 2, 3))
            first.setdefault(f"{height}x{width}x{channels}", int(ids[index]))
        return {"kinds": [kind], **_count("missing", missing, ids), "shapes": first}
    if kind == "other":
        return {
            "kinds": [kind],
            "type": str(column.type),
            **_count("missing", values.missing(column), ids),
        }
    parsed = values.parse_numbers(column)
    wrong, infinite = (
        _count("wrong", parsed.wrong, ids),
        _count("infinite", np.isinf(parsed.values), ids),
    )
    for fault, mask in ((wrong, parsed.wrong), (infinite, np.isinf(parsed.values))):
        name = next(key for key in fault if key.startswith("first_"))
        if fault[name] is not None:
            fault[name] = [fault[name], shown(column[int(np.flatnonzero(mask)[0])].as_py())]
    null = values.missing(column) if kind == "text" else parsed.missing
    return {
        "kinds": [kind],
        **_count("missing", null, ids),
        **_count("nan", parsed.missing, ids),
        **wrong,
        **infinite,
    }


def _count(name: str, mask: npt.NDArray[np.bool_], ids: npt.NDArray[np.int64]) -> dict[str, Any]:
    where = np.flatnonzero(mask)
    return {name: len(where), f"first_{name}": int(ids[where[0]]) if len(where) else None}


def merge(scans: Iterable[Scan]) -> Scan:
    """One scan over all blocks, given in the order of their rows. A column that a block lacks is missing there."""
    total: Scan = {"rows": 0, "columns": {}}
    for part in scans:
        for name, column in part["columns"].items():
            if name not in total["columns"]:
                total["columns"][name] = _all_missing(total)
            _add(total["columns"][name], column)
        for name, column in total["columns"].items():
            if name not in part["columns"]:
                _add(column, _all_missing(part))
        total["rows"] += part["rows"]
        total.setdefault("first", part["first"])
    return total


def _all_missing(part: Scan) -> dict[str, Any]:
    first = part.get("first")
    return {
        "kinds": [],
        "missing": part["rows"],
        "first_missing": first,
        "nan": part["rows"],
        "first_nan": first,
    }


def _add(total: dict[str, Any], column: dict[str, Any]) -> None:
    for key, value in column.items():
        if key == "kinds":
            total[key] = sorted({*total[key], *value})
        elif key == "shapes":
            total[key] = {**value, **total.get(key, {})}
        elif key.startswith("first_") or key == "type":
            total[key] = value if total.get(key) is None else total[key]
        else:
            total[key] = total.get(key, 0) + value


class Decision:
    """Decides the kind of each column from a merged scan, or says what is wrong with it."""

    def __init__(self, data: Data, layout: Layout, total: Scan, report: Say) -> None:
        self._data = data
        self._layout = layout
        self._columns: dict[str, dict[str, Any]] = total["columns"]
        self._rows: int = total["rows"]
        self._report = report

    def kinds(self) -> dict[str, str]:
        """`numeric`, `categorical` or `image` of every input column, in the order of the sources.

        Raises:
            DataError: A column that is named but not there, a value that does not fit, nothing to learn from.
        """
        self._check_names()
        self._check_target()
        inputs = [
            n
            for n in self._columns
            if n != self._data.target and n not in self._data.features.exclude
        ]
        kinds = {name: self._kind(name, self._columns[name]) for name in inputs}
        if not kinds:
            raise DataError(
                f"there is no column besides the target {self._data.target!r} to learn from"
            )
        images = [name for name, kind in kinds.items() if kind == "image"]
        if images and len(kinds) > 1:
            others = ", ".join(name for name in kinds if name != images[0])
            message = (
                f"the image column {images[0]!r} cannot be combined with other columns: {others}"
            )
            raise DataError(message, f"Add to the spec: data.features.exclude: [{others}]")
        if images:
            self._check_sizes(images[0])
        if self._data.clean.missing == "error" or (images and self._data.clean.missing == "impute"):
            self._check_nothing_missing(kinds)
        return kinds

    def _check_names(self) -> None:
        features = self._data.features
        named = [
            ("data.target", self._data.target),
            *(("data.features.columns", name) for name in features.columns),
        ]
        for path, name in [*named, *(("data.features.exclude", name) for name in features.exclude)]:
            if name in self._columns:
                continue
            message = f"{path}: there is no column {name!r} in {self._layout.files[0].path}"
            raise DataError(message, self._columns_hint(name))
        if self._data.target in (*features.exclude, *features.columns):
            raise DataError(
                f"data.features: {self._data.target!r} is the target, and cannot be an input as well"
            )

    def _columns_hint(self, name: str) -> str:
        there = f"There are {', '.join(self._columns)}."
        only = next(iter(self._columns))
        if len(self._columns) == 1 and ";" in only:
            return f"Its only column is {only!r}: write the file with commas instead of semicolons."
        return f"{did_you_mean(name, self._columns, starts_sentence=True)} {there}".lstrip()

    def _check_target(self) -> None:
        name = self._data.target
        column = self._columns[name]
        if "other" in column["kinds"] or "image" in column["kinds"]:
            raise DataError(
                f"target {name!r}: {column.get('type', 'an image')} cannot be predicted"
            )
        regression = self._data.task == "regression"
        missing = "nan" if regression else "missing"
        if column[missing] == self._rows:
            raise DataError(
                f"target {name!r}: no row has a value", f"All {self._rows:,} rows were looked at."
            )
        if regression and column.get("wrong"):
            self._refuse(
                name, column["first_wrong"], "is not a number", "Is this task: classification?"
            )
        if regression and column.get("infinite"):
            self._refuse(
                name,
                column["first_infinite"],
                "is not a finite number",
                "Correct or remove the row.",
            )
        if column[missing] and self._data.clean.missing != "drop":
            place = self._layout.place(column[f"first_{missing}"])
            message = f"{place}: {name}: the target is missing, here and in {column[missing] - 1:,} other rows"
            raise DataError(message, "data.clean.missing: drop leaves such rows out.")

    def _kind(self, name: str, column: dict[str, Any]) -> str:
        declared = self._data.features.columns.get(name)
        exclude = f"Leave it out: data.features.exclude: [{name}]"
        if "other" in column["kinds"]:
            raise DataError(f"column {name!r} holds {column['type']}, which is no input", exclude)
        if column["missing"] == self._rows:
            raise DataError(f"column {name!r} has no value in any of {self._rows:,} rows", exclude)
        if "image" in column["kinds"] or declared == "image":
            if column["kinds"] != ["image"] or declared not in (None, "image"):
                raise DataError(
                    f"column {name!r} is declared {declared}, but holds {', '.join(column['kinds'])}"
                )
            return "image"
        if declared == "categorical":
            return declared
        if declared is None and column["wrong"]:
            self._warn_of_numbers(name, column)
            return "categorical"
        if column["wrong"]:
            hint = "Strings that mean 'missing' go into data.clean.missing_values."
            self._refuse(name, column["first_wrong"], "is not a number", hint)
        if column["infinite"]:
            self._refuse(
                name,
                column["first_infinite"],
                "is not a finite number",
                "Correct or remove the row.",
            )
        return "numeric"

    def _warn_of_numbers(self, name: str, column: dict[str, Any]) -> None:
        there = self._rows - column["missing"]
        if there - column["wrong"] >= _MOSTLY_NUMBERS * there:
            row_id, value = column["first_wrong"]
            numbers = f"{there - column['wrong']:,} of its {there:,} values are numbers"
            self._report(
                f"note: column {name!r} is taken as categorical, but {numbers}; the first that is not is {value} at "
                f"{self._layout.place(row_id)}. If it means 'missing', add it to data.clean.missing_values."
            )

    def _refuse(self, name: str, first: Sequence[Any], what: str, hint: str) -> None:
        row_id, value = first
        raise DataError(f"{self._layout.place(row_id)}: {name}: {value} {what}", hint)

    def _check_sizes(self, name: str) -> None:
        shapes: dict[str, int] = self._columns[name]["shapes"]
        sizes: dict[str, int] = {}
        for shape, row_id in sorted(shapes.items(), key=lambda item: item[1]):
            sizes.setdefault(shape.rpartition("x")[0], row_id)
        if len(sizes) > 1:
            (size, first), (other, second) = list(sizes.items())[:2]
            place, other_place = self._layout.place(first), self._layout.place(second)
            message = f"images differ in size: {place} is {size}, but {other_place} is {other} (height x width)"
            raise DataError(
                message, "Give the size to bring them to: data.features.image_size: [height, width]"
            )

    def _check_nothing_missing(self, kinds: dict[str, str]) -> None:
        missing = {
            name: self._columns[name]["nan" if kind == "numeric" else "missing"]
            for name, kind in kinds.items()
        }
        firsts = [
            (
                self._columns[name]["first_nan" if kinds[name] == "numeric" else "first_missing"],
                name,
            )
            for name, count in missing.items()
            if count
        ]
        if firsts:
            row_id, name = min(firsts)
            hint = "data.clean.missing: impute or drop goes on without it."
            if kinds[name] == "image":
                hint = "An image cannot be filled in; data.clean.missing: drop leaves the row out."
            raise DataError(f"{self._layout.place(row_id)}: {name}: the value is missing", hint)
