"""The fitted features of a data set: one object from preparation to the replica. Pure.

Shape suffixes: B rows, K outputs of the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from raydc.errors import DataError
from raydc.features import given_values, row_inputs
from raydc.features.columns import Column, column_from_dict, column_to_dict
from raydc.features.encoded_categories import OutOfFold, TargetMean, folds_of
from raydc.features.image_column import Image
from raydc.features.number_column import Numeric
from raydc.features.outputs import Outputs
from raydc.features.prompt_texts import TokenColumn
from raydc.features.raw_values import Values
from raydc.features.record import Inputs
from raydc.features.signature import Signature
from raydc.features.table_layout import TableLayout
from raydc.order import Ids
from raydc.storage import canonical_json, sha256


@dataclass(frozen=True)
class Features(Outputs):
    """Features fitted by `raydc.data.fit` and applied with plain array code in every process.

    Attributes:
        signature: Inputs and outputs of the network.
        target: Name of the target column.
        columns: Fitted input columns by name, in the order of the inputs.
        target_mean: Mean of a regression's target over the training rows; 0 for a classification.
        target_scale: Its standard deviation; 1 for a classification.
        ignored: Columns that a raw row may have and that are not used: excluded ones.
        missing_values: Strings that mean "missing".
        always_given: Columns of numbers and categories of which no training row lacked a value, so
            that a client must give one. Features of an older raydc name none.
        threshold: The positive one of two classes, and the score from which on a row is called so;
            None calls each row by its highest score.
        label_thresholds: Score of each label from which on a row has it; empty for the default.
    """

    signature: Signature
    target: str
    columns: dict[str, Column]
    target_mean: float = 0.0
    target_scale: float = 1.0
    ignored: tuple[str, ...] = ()
    missing_values: tuple[str, ...] = ()
    # Not compared: inputs do not depend on it, and a model that an older raydc trained is evaluated
    # on the same data set, prepared again.
    always_given: tuple[str, ...] = field(default=(), compare=False)
    # Not compared: only a trained model has it.
    threshold: tuple[str, float] | None = field(default=None, compare=False)
    label_thresholds: tuple[float, ...] = field(default=(), compare=False)

    def apply(self, columns: Mapping[str, Values], max_pixels: int | None = None) -> Inputs:
        """Turns raw columns into network inputs.

        Args:
            columns: B values of every input column, by name; other columns are ignored.
            max_pixels: Maximum number of pixels to decode (see `Image.apply`); None means any
                number.

        Returns:
            [B, *signature.shape] of signature.dtype, or a record of the signature's fields.

        Raises:
            DataError: A column is missing, or a value does not fit; the message names it as
                `rows[i].column`.
        """
        self._refuse_absent(columns)
        is_one_array = self.signature.kind != "record"
        return row_inputs.make_inputs(
            self.columns, columns, self._missing, max_pixels, is_one_array
        )

    def apply_stored(self, columns: Mapping[str, Values]) -> Inputs:
        """Does the same as `apply`, but for storage: categories are codes; see `Record.expanded`.

        Raises DataError as `apply` does.
        """
        if not self.layout.saves_space:
            return self.apply(columns)
        self._refuse_absent(columns)
        return row_inputs.make_stored(self.columns, columns, self._missing)

    def out_of_fold(self, without: Mapping[str, Sequence[TargetMean]], row_ids: Ids) -> Features:
        """The features for some training rows, whose target means leave out their own fold.

        Args:
            without: For each column of target means, one for each fold that knows no row of it.
            row_ids: Ids of the rows to which the result will be applied.
        """
        if not without:
            return self
        folds = folds_of(row_ids)
        replaced = {name: OutOfFold(tuple(by_fold), folds) for name, by_fold in without.items()}
        return replace(self, columns={**self.columns, **replaced})

    @property
    def token_column(self) -> TokenColumn | None:
        """The column of a language model, which continues texts; None of any other model."""
        columns = list(self.columns.values())
        first = columns[0] if len(columns) == 1 else None
        return first if isinstance(first, TokenColumn) else None

    @cached_property
    def layout(self) -> TableLayout:
        """Places of the inputs of columns of numbers and categories."""
        return row_inputs.layout_of(self.columns)

    @property
    def is_stored_as_record(self) -> bool:
        """Whether rows are stored as named fields, and not as one array."""
        return self.signature.kind == "record" or self.layout.saves_space

    def _refuse_absent(self, columns: Mapping[str, Values]) -> None:
        for name in self.columns:
            if name not in columns:
                raise DataError(
                    f"column {name!r} is missing", f"The model takes {', '.join(self.columns)}."
                )

    def apply_given(self, columns: Mapping[str, Values], max_pixels: int | None = None) -> Inputs:
        """Does the same as `apply` for rows of a client, which must have all of `always_given`.

        Args:
            columns: B values of every input column, by name; other columns are ignored.
            max_pixels: Maximum number of pixels to decode (see `Image.apply`); None means any
                number.

        Returns:
            [B, *signature.shape] of signature.dtype, or a record of the signature's fields.

        Raises:
            DataError: As for `apply`; or a row lacks a value, and the message names all columns
                that the first such row lacks.
        """
        if not self.always_given:
            return self.apply(columns, max_pixels)
        given = given_values.read_given(self.always_given, self.columns, columns, self._missing)
        return self.apply({**columns, **given}, max_pixels)

    def apply_numbers(self, values_BF: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Does the same as `apply_given`, bit for bit, for numeric columns that come as one array.

        Args:
            values_BF: Numbers [B, F] in the order of the columns; NaN for a missing one.

        Returns:
            float32 [B, F].

        Raises:
            DataError: A number is infinite or too large, and the message names its row and column;
                or a row lacks a value, as for `apply_given`.
        """
        mean_F, shift_F, scale_F = self._scaling
        # A copy, because the array may be a view of the body of a request.
        numbers_BF = np.array(values_BF, dtype=np.float64)
        missing_BF = np.isnan(numbers_BF)
        if self.always_given and missing_BF.any():
            missing = dict(zip(self.columns, missing_BF.T, strict=True))
            given_values.refuse_missing({name: missing[name] for name in self.always_given})
        np.copyto(numbers_BF, mean_F, where=missing_BF)
        return row_inputs.scale_numbers(numbers_BF, shift_F, scale_F, [*self.columns])

    @property
    def are_numbers(self) -> bool:
        """Whether all columns are numeric, with one input each that is the scaled number."""
        columns = self.columns.values()
        return all(isinstance(column, Numeric) and column.is_plain for column in columns)

    @property
    def shows_images(self) -> bool:
        """Whether image files become what a viewer shows; see `images.to_pixels`."""
        return any(
            isinstance(column, Image) and column.as_shown for column in self.columns.values()
        )

    def from_json_rows(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
        """Turns rows of JSON values into columns for `apply`.

        Args:
            rows: Objects of column: value. A column that a row leaves out is null in it. An
                image is base64 text of a file, or nested lists of numbers from 0 to 255. The
                target and excluded columns are allowed and ignored.

        Returns:
            Values of every input column, by name.

        Raises:
            DataError: A row is not an object or has no input, or a column is unknown.
        """
        for index, row in enumerate(rows):
            given_values.check_row(index, row, self.columns, self._known)
        return {name: [row.get(name) for row in rows] for name in self.columns}

    @cached_property
    def _scaling(self) -> npt.NDArray[np.float64]:
        columns = [column for column in self.columns.values() if isinstance(column, Numeric)]
        return np.array([(one.mean, one.shift, one.scale) for one in columns], dtype=np.float64).T

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset([*self.columns, self.target, *self.ignored])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, which `from_dict` reads."""
        value: dict[str, Any] = {
            "signature": self.signature.to_dict(),
            "target": self.target,
            # A list, because the order of the columns is the order of the inputs, and JSON is
            # written with sorted keys.
            "columns": [
                {"name": name, **column_to_dict(column)} for name, column in self.columns.items()
            ],
            "target_mean": self.target_mean,
            "target_scale": self.target_scale,
            "ignored": list(self.ignored),
            "missing_values": list(self.missing_values),
        }
        # Left out where it is empty, so that features of an older raydc keep their hash. Beside the
        # columns and not in them, so that an older raydc reads the features as well.
        for name in ("always_given", "threshold", "label_thresholds"):
            if given := getattr(self, name):
                value[name] = list(given)
        return value

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Features:
        """The inverse of `to_dict`.

        Args:
            value: Plain JSON values, as `to_dict` returns them.

        Raises:
            DataError: The value holds no features, or those of another version.
        """
        try:
            columns = {
                item["name"]: column_from_dict({k: v for k, v in item.items() if k != "name"})
                for item in value["columns"]
            }
            return cls(
                Signature.from_dict(value["signature"]),
                value["target"],
                columns,
                value["target_mean"],
                value["target_scale"],
                tuple(value["ignored"]),
                tuple(value["missing_values"]),
                tuple(value.get("always_given", ())),
                tuple(value["threshold"]) if value.get("threshold") else None,
                tuple(value.get("label_thresholds", ())),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"not the features of a data set: {error!r}") from error

    @property
    def hash(self) -> str:
        """Hash over every fitted statistic: sha256 of the canonical JSON."""
        return sha256(canonical_json(self.to_dict()))
