"""The fitted features of a data set: one object from preparation to the replica. Pure.

Shape suffixes: B rows, K outputs of the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from raydc.errors import DataError, shown
from raydc.features import answers, given_values
from raydc.features.columns import (
    Column,
    Image,
    Numeric,
    Values,
    column_from_dict,
    column_to_dict,
    numbers,
)
from raydc.features.signature import Signature
from raydc.spec.label_text import find_position, positions_of
from raydc.storage import canonical_json, sha256


@dataclass(frozen=True)
class Features:
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

    def apply(
        self, columns: Mapping[str, Values], max_pixels: int | None = None
    ) -> npt.NDArray[Any]:
        """Turns raw columns into network inputs.

        Args:
            columns: B values of every input column, by name; other columns are ignored.
            max_pixels: Maximum number of pixels to decode (see `Image.apply`); None means any
                number.

        Returns:
            [B, *signature.shape] of signature.dtype.

        Raises:
            DataError: A column is missing, or a value does not fit; the message names it as
                `rows[i].column`.
        """
        for name in self.columns:
            if name not in columns:
                raise DataError(
                    f"column {name!r} is missing", f"The model takes {', '.join(self.columns)}."
                )
        parts: list[npt.NDArray[np.float32]] = []
        for name, column in self.columns.items():
            # An image is the only column of its features.
            if isinstance(column, Image):
                return column.apply(columns[name], name, max_pixels)
            parts.append(column.apply(columns[name], name, self._missing))
        return np.concatenate(parts, axis=1)

    def apply_given(
        self, columns: Mapping[str, Values], max_pixels: int | None = None
    ) -> npt.NDArray[Any]:
        """Does the same as `apply` for rows of a client, which must have all of `always_given`.

        Args:
            columns: B values of every input column, by name; other columns are ignored.
            max_pixels: Maximum number of pixels to decode (see `Image.apply`); None means any
                number.

        Returns:
            [B, *signature.shape] of signature.dtype.

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
        with np.errstate(over="ignore"):
            scaled_BF: npt.NDArray[np.float32] = ((numbers_BF - shift_F) / scale_F).astype(
                np.float32
            )
        if np.isinf(scaled_BF).any():
            row, position = np.argwhere(np.isinf(scaled_BF))[0]
            number = float(numbers_BF[row, position])
            fault = "too large" if np.isfinite(number) else "not a finite number"
            raise DataError(f"rows[{row}].{[*self.columns][position]}: {number} is {fault}")
        return scaled_BF

    @property
    def are_numbers(self) -> bool:
        """Whether all columns are numeric."""
        return all(isinstance(column, Numeric) for column in self.columns.values())

    @property
    def shows_images(self) -> bool:
        """Whether image files become what a viewer shows; see `images.to_pixels`."""
        return any(
            isinstance(column, Image) and column.as_shown for column in self.columns.values()
        )

    def apply_target(self, values: Values) -> npt.NDArray[Any]:
        """Turns raw targets into the targets of a loss.

        Args:
            values: Raw targets of B rows.

        Returns:
            int64 [B], positions in `signature.classes`; or float32 [B], standardised.

        Raises:
            DataError: A label is not a class, or a target is not a number; the message names
                its row.
        """
        if self.signature.task == "regression":
            numbers_B = numbers(values, self.target, self._missing)
            if np.isnan(numbers_B).any():
                row = int(np.flatnonzero(np.isnan(numbers_B))[0])
                raise DataError(f"rows[{row}].{self.target}: the target is missing")
            return ((numbers_B - self.target_mean) / self.target_scale).astype(np.float32)
        labels_B = np.empty(len(values), dtype=np.int64)
        for row, value in enumerate(values):
            label = find_position(self._class_position, value)
            if label is None:
                message = (
                    f"rows[{row}].{self.target}: {shown(value)} is not one of the model's classes"
                )
                raise DataError(message, f"They are {', '.join(self.signature.classes)}.")
            labels_B[row] = label
        return labels_B

    def decode(self, outputs_BK: npt.NDArray[np.float32]) -> list[dict[str, Any]]:
        """Turns raw network outputs into answers.

        Args:
            outputs_BK: float32 [B, K], before any softmax.

        Returns:
            One answer per row, as `answers` returns them.
        """
        return self.answers(self.values(outputs_BK))

    def values(self, outputs_BK: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Turns raw outputs into probabilities [B, K], or values [B, 1] in units of the target."""
        if self.signature.task == "regression":
            return self.unscale(outputs_BK)[:, None]
        return self.scores(outputs_BK)

    def answers(self, values_BK: npt.NDArray[np.float64]) -> list[dict[str, Any]]:
        """Turns the result of `values` into answers.

        Args:
            values_BK: float64, probabilities [B, K] or values [B, 1].

        Returns:
            One per row: `{"label", "score", "scores": {class: probability}}`, or `{"value"}` in
            units of the target.
        """
        if self.signature.task == "regression":
            return [{"value": value} for value in values_BK[:, 0].tolist()]
        return answers.name_classes(values_BK, self.signature.classes)

    def scores(self, outputs_BK: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Turns raw outputs of a classification into probabilities of its classes, [B, K]."""
        return answers.softmax(outputs_BK)

    def unscale(self, outputs: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Turns standardised values [B] or [B, 1] into float64 [B] in units of the target."""
        values_B = np.asarray(outputs, dtype=np.float64).reshape(len(outputs))
        return values_B * self.target_scale + self.target_mean

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

    @cached_property
    def _missing(self) -> frozenset[str]:
        return frozenset(self.missing_values)

    @cached_property
    def _class_position(self) -> dict[str, int]:
        return positions_of(self.signature.classes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, which `from_dict` reads."""
        value = {
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
        return {**value, "always_given": list(self.always_given)} if self.always_given else value

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
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"not the features of a data set: {error!r}") from error

    @property
    def hash(self) -> str:
        """Hash over every fitted statistic: sha256 of the canonical JSON."""
        return sha256(canonical_json(self.to_dict()))
