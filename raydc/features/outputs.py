"""Targets and outputs of a model: what a loss compares, and what a client reads. Pure.

Shape suffixes: B rows, K outputs of the network.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from raydc.errors import DataError
from raydc.features import answers, targets
from raydc.features.raw_values import Values, numbers
from raydc.features.signature import Signature
from raydc.spec.label_text import positions_of
from raydc.spec.language import LANGUAGE


class Outputs:
    """Base of `Features`, which hold what is declared here."""

    signature: Signature
    target: str
    target_mean: float
    target_scale: float
    missing_values: tuple[str, ...]
    threshold: tuple[str, float] | None
    label_thresholds: tuple[float, ...]

    def apply_target(self, values: Values) -> npt.NDArray[Any]:
        """Turns raw targets into the targets of a loss.

        Args:
            values: Raw targets of B rows: one value each, a list of labels each, or for forecasts
                of several steps an array [B, K].

        Returns:
            int64 [B], positions in `signature.classes`; float32 [B] or [B, K], standardised; or
            uint8 [B, K], 1 for each label of a row.

        Raises:
            DataError: A label is not a class, or a target is not a number; the message names
                its row.
        """
        if self.signature.task == "regression":
            numbers_B = numbers(values, self.target, self._missing)
            if np.isnan(numbers_B).any():
                row = int(np.argwhere(np.isnan(numbers_B))[0][0])
                raise DataError(f"rows[{row}].{self.target}: the target is missing")
            return ((numbers_B - self.target_mean) / self.target_scale).astype(np.float32)
        positions, classes = self._class_position, self.signature.classes
        if self.has_label_sets:
            return targets.label_marks(values, positions, classes, self.target)
        return targets.class_positions(values, positions, classes, self.target)

    @property
    def has_label_sets(self) -> bool:
        """Whether a row has any number of labels."""
        return self.signature.task == "multilabel"

    def decode(self, outputs_BK: npt.NDArray[np.float32]) -> list[dict[str, Any]]:
        """Turns raw network outputs into answers.

        Args:
            outputs_BK: float32 [B, K], before any softmax.

        Returns:
            One answer per row, as `answers` returns them.
        """
        return self.answers(self.values(outputs_BK))

    def values(self, outputs_BK: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Turns raw outputs into probabilities [B, K], or values [B, K] in units of the target.

        Of a language model, these are the losses of the tokens.
        """
        if self.signature.task in ("regression", LANGUAGE):
            return self.unscale(outputs_BK).reshape(len(outputs_BK), -1)
        return self.scores(outputs_BK)

    def answers(self, values_BK: npt.NDArray[np.float64]) -> list[dict[str, Any]]:
        """Turns the result of `values` into answers.

        Args:
            values_BK: float64, probabilities or values [B, K].

        Returns:
            One per row: `{"label", "score", "scores": {class: probability}}`; for several labels
            `{"labels", "scores"}`; or `{"value"}` in units of the target, a list for a forecast of
            several steps.
        """
        if self.signature.num_values > 1:
            return [{"value": values_K} for values_K in values_BK.tolist()]
        if self.signature.task == "regression":
            return [{"value": value} for value in values_BK[:, 0].tolist()]
        classes = self.signature.classes
        if self.has_label_sets:
            return answers.name_labels(values_BK, classes, self.label_thresholds)
        return answers.name_classes(values_BK, classes, self.threshold)

    def choose(self, scores_BK: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        """Chooses by probabilities: class positions int64 [B], or marks of labels uint8 [B, K]."""
        if self.has_label_sets:
            return answers.choose_labels(scores_BK, self.label_thresholds)
        return answers.choose(scores_BK, self.signature.classes, self.threshold)

    def scores(self, outputs_BK: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Turns raw outputs into probabilities of classes or labels, [B, K]."""
        return answers.sigmoid(outputs_BK) if self.has_label_sets else answers.softmax(outputs_BK)

    def name_target(self, stored: Any) -> Any:
        """What a stored target means: a class, a list of labels, or a value in its own units.

        Args:
            stored: Target of one row.
        """
        classes = self.signature.classes
        if self.has_label_sets:
            return [name for name, mark in zip(classes, stored, strict=True) if mark]
        return classes[int(stored)] if classes else self.unscale(np.array([stored]))[0].tolist()

    def unscale(self, outputs: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Turns standardised values into float64 in units of the target.

        Args:
            outputs: Standardised values, [B] or [B, 1]; [B, K] for forecasts of several steps.

        Returns:
            [B], or [B, K] for several steps.
        """
        num_values = self.signature.num_values
        shape = (len(outputs),) if num_values == 1 else (len(outputs), num_values)
        values_B = np.asarray(outputs, dtype=np.float64).reshape(shape)
        return values_B * self.target_scale + self.target_mean

    @cached_property
    def _missing(self) -> frozenset[str]:
        return frozenset(self.missing_values)

    @cached_property
    def _class_position(self) -> dict[str, int]:
        return positions_of(self.signature.classes)
