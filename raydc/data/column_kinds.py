"""Decides whether each column is numeric, categorical, a text or an image. Runs in the driver."""

from __future__ import annotations

import re
from collections.abc import Sequence

from raydc.data import cleaning_check, list_values
from raydc.data.column_notes import to_exclude
from raydc.data.column_scan import BlockScan, ColumnScan, Occurrences
from raydc.data.features_check import check_features
from raydc.data.layout import Layout
from raydc.data.row_faults import NO_QUERY
from raydc.data.text_shapes import is_number_with_signs, with_edges
from raydc.errors import DataError, Say, did_you_mean, shown
from raydc.spec.sections import Data

# A column of text in which nine of ten values are numbers is probably numeric, with a marker for
# missing values; a note says so.
_MOSTLY_NUMBERS_FRACTION = 0.9
# What pandas calls an index without a name when it writes Parquet.
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


class ColumnKinds:
    """Decides the kind of each column from a scan of all rows, or names what is wrong with it.

    Args:
        data: Section `data` of the spec, with the declared kinds and the target.
        layout: Files of the source, from which messages take the place of a row.
        total: Merged scan of all blocks, held-out rows included.
        report: Prints a note about each doubtful column.
    """

    def __init__(self, data: Data, layout: Layout, total: BlockScan, report: Say) -> None:
        self._data = data
        self._layout = layout
        self._columns = total.columns
        self._num_rows = total.num_rows
        self._report = report
        named = (data.target, *data.features.columns, *data.features.exclude)
        self._index = [
            name for name in total.columns if _PANDAS_INDEX.fullmatch(name) and name not in named
        ]

    @property
    def ignored(self) -> tuple[str, ...]:
        """Columns that are not inputs: excluded ones, and the index of pandas."""
        windows = self._data.windows
        series = () if windows is None else (windows.time, windows.key)
        own = (self._data.split.own_column, *series)
        named = self._data.features.columns
        unused = [name for name in own if name is not None and name not in named]
        labels = self._data.label_columns or ()
        return tuple(dict.fromkeys((*self._data.features.exclude, *self._index, *unused, *labels)))

    def decide(self) -> dict[str, str]:
        """Decides all columns.

        Returns:
            `numeric`, `categorical`, `text` or `image` by input column, in the order of the
            sources.

        Raises:
            DataError: The spec names a column that does not exist, a value does not fit its
                column, or there is no column to learn from.
        """
        self._check_names()
        self._check_target()
        self._check_query()
        if self._index:
            self._report(
                f"note: {', '.join(self._index)} is left out, the index of a pandas table; to "
                "learn from it, name its kind in data.features.columns"
            )
        not_inputs = {self._data.target, *self.ignored}
        self._check_inputs([name for name in self._columns if name not in not_inputs])
        kinds = {
            name: self._decide_kind(name, column)
            for name, column in self._columns.items()
            if name not in not_inputs
        }
        if not kinds and self._data.windows is None:
            raise DataError(
                f"there is no column besides the target {self._data.target!r} to learn from"
            )
        check_features(self._data, kinds)
        for name, kind in kinds.items():
            if kind == "image":
                self._check_sizes(name)
        cleaning_check.check_cleaning(self._data, self._columns, kinds)
        if self._stops:
            self._check_nothing_missing(
                {name: kind for name, kind in kinds.items() if self._needs_values(name, kind)}
            )
        return kinds

    @property
    def _stops(self) -> bool:
        """Whether a row that cannot be used is an error, and not left out later."""
        return self._data.clean.on_error == "fail"

    def _needs_values(self, name: str, kind: str) -> bool:
        missing = self._data.clean.of(name).missing
        # An image cannot be filled in.
        return missing == "error" or (kind == "image" and missing != "drop")

    def _check_names(self) -> None:
        features, split_column = self._data.features, self._data.split.column
        named = [
            ("data.target", self._data.target),
            *([("data.split.column", split_column)] if split_column is not None else []),
            *([("data.query", self._data.query)] if self._data.query is not None else []),
            *(("data.features.columns", name) for name in features.columns),
            *(("data.features.encodings", name) for name in features.encodings),
            *(("data.features.scales", name) for name in features.scales),
            *(("data.features.exclude", name) for name in features.exclude),
        ]
        for path, name in named:
            if name in self._columns:
                continue
            message = f"{path}: there is no column {name!r} in {self._layout.files[0].path}"
            raise DataError(message, self._columns_hint(name))
        inputs = (*features.exclude, *features.columns, *features.encodings, *features.scales)
        if self._data.target in inputs:
            raise DataError(
                f"data.features: {self._data.target!r} is the target, and cannot be an input "
                "as well",
                "Leave it out of data.features, or set data.target to another column.",
            )

    def _columns_hint(self, name: str) -> str:
        only = next(iter(self._columns))
        if len(self._columns) == 1 and any(sign in only for sign in ",;\t|"):
            return f"Its only column is {shown(only)}. Is data.csv.delimiter right?"
        there = f"There are {', '.join(map(with_edges, self._columns))}."
        return f"{did_you_mean(name, self._columns, starts_sentence=True)} {there}".lstrip()

    def _check_target(self) -> None:
        name = self._data.target
        column = self._columns[name]
        if not {"other", "image", "list"}.isdisjoint(column.kinds):
            what = "a list" if "list" in column.kinds else "an image"
            raise DataError(
                f"target {name!r}: {column.arrow_type or what} cannot be predicted",
                "Set data.target to a column of numbers or labels.",
            )
        is_regression = self._data.task == "regression"
        # NaN is a valid class label, but not a valid regression target.
        missing = column.missing_numbers if is_regression else column.missing
        if missing.count == self._num_rows:
            raise DataError(
                f"target {name!r}: no row has a value",
                f"All {self._num_rows:,} rows were checked.",
            )
        if is_regression:
            self._refuse_wrong_numbers(name, column, "Is this task: classification?")
        is_error = self._stops and not self._data.clean.drops_missing_target
        if missing.first_row is not None and is_error:
            place = self._layout.describe_row(missing.first_row)
            message = (
                f"{place}: {name}: the target is missing, here and in {missing.count - 1:,} "
                "other rows"
            )
            hint = "data.clean.missing_target: drop leaves such rows out."
            if self._data.task == "multilabel":
                hint += " If an empty cell is a row without labels: data.clean.missing_values: []."
            raise DataError(message, hint)

    def _check_query(self) -> None:
        name = self._data.query
        missing = None if name is None else self._columns[name].missing
        if missing is not None and missing.first_row is not None and self._stops:
            place = self._layout.describe_row(missing.first_row)
            raise DataError(
                f"{place}: {name}: {NO_QUERY}",
                "data.clean.on_error: drop leaves such rows out.",
            )

    def _check_inputs(self, names: Sequence[str]) -> None:
        faults = {}
        for name in names:
            column = self._columns[name]
            if "other" in column.kinds:
                faults[name] = f"holds {column.arrow_type}, which cannot be an input"
            elif column.missing.count == self._num_rows:
                faults[name] = f"has no value in any of {self._num_rows:,} rows"
        if faults:
            what = "; ".join(f"column {name!r} {fault}" for name, fault in faults.items())
            them = "it" if len(faults) == 1 else "them"
            raise DataError(what, f"Leave {them} out: {to_exclude(faults, self._data)}")

    def _decide_kind(self, name: str, column: ColumnScan) -> str:
        declared = self._data.features.columns.get(name)
        exclude = f"Leave it out: {to_exclude([name], self._data)}"
        if "image" in column.kinds or declared == "image":
            if column.kinds != ("image",) or declared not in (None, "image"):
                fault = f"is declared {declared}, but" if declared else "cannot be one input:"
                raise DataError(
                    f"column {name!r} {fault} holds {self._kinds_by_place(column)}", exclude
                )
            return "image"
        if "list" in column.kinds or declared == "list":
            self._check_lists(name, column, exclude)
            return "list"
        if declared == "categorical":
            return declared
        if declared == "date":
            # The reader has made seconds of its cells.
            return "numeric"
        if declared == "text":
            # A number may be written in several ways, and its file does not say in which.
            if column.kinds != ("text",):
                raise DataError(
                    f"column {name!r} is declared text, but holds {self._kinds_by_place(column)}",
                    exclude,
                )
            return declared
        if declared is None and column.wrong.count:
            self._warn_of_numbers(name, column)
            return "categorical"
        hint = "Strings that mean 'missing' go into data.clean.missing_values."
        self._refuse_wrong_numbers(name, column, hint)
        return "numeric"

    def _check_lists(self, name: str, column: ColumnScan, exclude: str) -> None:
        declared = self._data.features.columns.get(name)
        if column.kinds != ("list",) or declared not in (None, "list"):
            fault = f"is declared {declared}, but" if declared else "cannot be one input:"
            found = self._kinds_by_place(column)
            raise DataError(f"column {name!r} {fault} holds {found}", exclude)
        if len(column.shapes) > 1:
            (one, first), (other, second) = sorted(column.shapes.items(), key=lambda at: at[1])[:2]
            raise DataError(
                f"column {name!r} holds {one} at {self._layout.describe_row(first)}, but {other} "
                f"at {self._layout.describe_row(second)}",
                exclude,
            )
        if column.wrong.count and self._stops:
            place = self._place(column.wrong)
            fault = f"{column.wrong.first_value} {list_values.WRONG_ITEM}"
            raise DataError(f"{place}: {name}: {fault}", "Correct or remove the row.")

    def _warn_of_numbers(self, name: str, column: ColumnScan) -> None:
        num_values = self._num_rows - column.missing.count
        num_numbers = num_values - column.wrong.count
        if num_numbers >= _MOSTLY_NUMBERS_FRACTION * num_values:
            self._report(
                f"note: column {name!r} is taken as categorical, but {num_numbers:,} of its "
                f"{num_values:,} values are numbers; the first that is not is "
                f"{column.wrong.first_value} at {self._place(column.wrong)}. If it means "
                "'missing', add it to data.clean.missing_values."
            )
        elif len(column.kinds) > 1:
            self._report(
                f"note: column {name!r} is taken as categorical: it holds "
                f"{self._kinds_by_place(column)}"
            )

    def _kinds_by_place(self, column: ColumnScan) -> str:
        found = sorted(column.first_of_kind.items(), key=lambda item: item[1])
        return ", and ".join(f"{kind} in {self._layout.file_of(row).path}" for kind, row in found)

    def _refuse_wrong_numbers(self, name: str, column: ColumnScan, hint: str) -> None:
        for fault, what, advice in (
            (column.wrong, "is not a number", hint),
            (column.infinite, "is not a finite number", "Correct or remove the row."),
        ):
            if fault.count and self._stops:
                if is_number_with_signs((fault.first_value or "").strip("'")):
                    advice = "Write numbers with digits and a decimal point only, such as 1234.5."
                raise DataError(f"{self._place(fault)}: {name}: {fault.first_value} {what}", advice)

    def _place(self, found: Occurrences) -> str:
        return self._layout.describe_row(found.first_row or 0)

    def _check_sizes(self, name: str) -> None:
        # Channels may differ: grey images are widened to RGB.
        first_of_size: dict[str, int] = {}
        for shape, row_id in sorted(self._columns[name].shapes.items(), key=lambda item: item[1]):
            first_of_size.setdefault(shape.rpartition("x")[0], row_id)
        if len(first_of_size) > 1:
            (size, row_id), (other, other_row_id) = list(first_of_size.items())[:2]
            place = self._layout.describe_row(row_id)
            other_place = self._layout.describe_row(other_row_id)
            raise DataError(
                f"images differ in size: {place} is {size}, but {other_place} is {other} "
                "(height x width)",
                "Give the size to bring them to: data.features.image_size: [height, width]",
            )

    def _check_nothing_missing(self, kinds: dict[str, str]) -> None:
        missing = {
            name: self._columns[name].missing_numbers
            if kind == "numeric"
            else self._columns[name].missing
            for name, kind in kinds.items()
        }
        firsts = [
            (found.first_row, name)
            for name, found in missing.items()
            if found.first_row is not None
        ]
        if firsts:
            row_id, name = min(firsts)
            hint = "data.clean.missing: impute fills it in, drop leaves the row out."
            if kinds[name] == "image":
                hint = "An image cannot be filled in; data.clean.missing: drop leaves the row out."
            raise DataError(
                f"{self._layout.describe_row(row_id)}: {name}: the value is missing", hint
            )
