"""Groups of stored rows by the raw value of a column, for scores by slice. Pure.

Used where a model is evaluated. A stored number is compared with edges that are stored in the same
way, so that a raw value on an edge falls on the right side.

Shape suffixes: B rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raydc.errors import UsageError, did_you_mean
from raydc.features import Categorical, Features, Numeric
from raydc.features.record import Inputs, Record
from raydc.features.row_inputs import table_columns
from raydc.features.table_layout import CODES, COLUMNS, NUMBERS

# Categories that get a slice of their own, the most frequent ones; the others share one.
MAX_CATEGORIES = 50


@dataclass(frozen=True)
class RowSlices:
    """The slices of one column.

    Attributes:
        column: Name of the column whose values make the slices.
        features: Features of the data set, which say where the column is stored.
        edges: For a column of numbers: where a bin ends and the next one begins, ascending.
    """

    column: str
    features: Features
    edges: tuple[float, ...] = ()

    @property
    def names(self) -> list[str]:
        """Names of the slices, in the order of `positions`."""
        fitted = self.features.columns[self.column]
        if isinstance(fitted, Numeric):
            inner = [f"{low:g} to {high:g}" for low, high in itertools.pairwise(self.edges)]
            return [f"below {self.edges[0]:g}", *inner, f"from {self.edges[-1]:g} on"]
        assert isinstance(fitted, Categorical)
        names = fitted.code_names
        return [*names[:MAX_CATEGORIES], "(rest)"] if len(names) > MAX_CATEGORIES else names

    def positions(self, x: Inputs) -> npt.NDArray[np.int64]:
        """Position in `names` of the slice of each row, int64 [B].

        A missing number was stored as the mean of the training rows, and counts as that.
        """
        fitted = self.features.columns[self.column]
        if isinstance(fitted, Numeric):
            edges = fitted.scaled(np.array(self.edges)).astype(np.float32)
            if fitted.quantiles:
                # The rank of what is above all training rows is that of their greatest number.
                edges[np.array(self.edges) > fitted.quantiles[-1]] = np.inf
            return np.searchsorted(edges, self._numbers(x), side="right")
        codes_B = np.minimum(self._codes(x).astype(np.int64), MAX_CATEGORIES)
        return np.minimum(codes_B, len(self.names) - 1)

    def _numbers(self, x: Inputs) -> npt.NDArray[np.float32]:
        if not isinstance(x, Record):
            return x[:, self._first_input]
        fields: Mapping[str, Any] = x.fields
        if x.layout is None:
            return fields[COLUMNS][:, self._first_input]  # type: ignore[no-any-return]
        place = np.flatnonzero(x.layout.number_positions == self._first_input)[0]
        return fields[NUMBERS][:, place]  # type: ignore[no-any-return]

    def _codes(self, x: Inputs) -> npt.NDArray[Any]:
        fields: Mapping[str, Any] = x.fields if isinstance(x, Record) else {COLUMNS: x}
        # A column that a network embeds is a field of its own.
        if self.column in fields:
            return fields[self.column]  # type: ignore[no-any-return]
        fitted = self.features.columns[self.column]
        assert isinstance(fitted, Categorical)
        first, width = self._first_input, fitted.num_inputs
        if isinstance(x, Record) and x.layout is not None:
            place = np.flatnonzero(x.layout.code_starts == first)[0]
            return fields[CODES][:, place]  # type: ignore[no-any-return]
        # Data sets of an older raydc store one input for each category.
        one_hot_BW = fields[COLUMNS][:, first : first + width]
        return np.where(one_hot_BW.any(axis=1), one_hot_BW.argmax(axis=1), width)

    @property
    def _first_input(self) -> int:
        first = 0
        for name, fitted in table_columns(self.features.columns).items():
            if name == self.column:
                break
            first += fitted.num_inputs
        return first


def parse_slices(texts: Sequence[str], features: Features) -> list[RowSlices]:
    """Reads `COLUMN` for a column of categories, or `COLUMN:EDGE,EDGE,...` for one of numbers.

    Args:
        texts: One text for each column.
        features: Features of the data set.

    Raises:
        UsageError: There is no such column, it has neither numbers nor categories, or its edges are
            missing or not ascending numbers.
    """
    return [_parse(text, features) for text in texts]


def _parse(text: str, features: Features) -> RowSlices:
    name, colon, listed = text, "", ""
    if name not in features.columns:
        name, colon, listed = text.rpartition(":")
    fitted = features.columns.get(name)
    if fitted is None:
        hint = did_you_mean(name or text, features.columns)
        raise UsageError(
            f"--slice {text}: the model has no column {name or text!r}",
            hint or f"Its columns are {', '.join(features.columns)}.",
        )
    if isinstance(fitted, Categorical) and not colon:
        return RowSlices(name, features)
    if not isinstance(fitted, Numeric):
        hint = "Give the column alone." if colon else "Rows are sliced by numbers and categories."
        raise UsageError(f"--slice {text}: {name!r} is a column of kind {fitted.kind}", hint)
    try:
        edges = tuple(float(edge) for edge in listed.split(","))
    except ValueError:
        edges = ()
    if not edges or any(not low < high for low, high in itertools.pairwise(edges)):
        raise UsageError(
            f"--slice {text}: {name!r} is a number, and bins need ascending edges",
            f"Example: --slice {name}:20,40,60",
        )
    return RowSlices(name, features, edges)
