"""Raw targets to the targets of a loss. Pure; used where rows are prepared or scored.

Shape suffixes: B rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from raydc.errors import DataError, shown
from raydc.features.coded_texts import CodedTexts
from raydc.features.raw_values import Values
from raydc.spec.label_text import find_position


def class_positions(
    values: Values, positions: dict[str, int], classes: Sequence[str], target: str
) -> npt.NDArray[np.int64]:
    """Turns labels into class positions.

    Args:
        values: Raw labels of B rows.
        positions: Positions of the classes by name, as `label_text.positions_of` makes them.
        classes: Names of the classes, for the message.
        target: Name of the target column, for the message.

    Returns:
        int64 [B].

    Raises:
        DataError: A label is not a class; the message names its row.
    """
    if isinstance(values, CodedTexts):

        def position_of(value: str | None) -> int:
            position = find_position(positions, value)
            return -1 if position is None else position

        found_B = values.map(position_of, np.int64)
        if (found_B >= 0).all():
            return found_B
        # The loop below names the first row that has none.
    labels_B = np.empty(len(values), dtype=np.int64)
    for row, value in enumerate(values):
        label = find_position(positions, value)
        if label is None:
            message = f"rows[{row}].{target}: {shown(value)} is not one of the model's classes"
            raise DataError(message, f"They are {', '.join(classes)}.")
        labels_B[row] = label
    return labels_B


def label_marks(
    values: Values,
    positions: dict[str, int],
    classes: Sequence[str],
    target: str,
) -> npt.NDArray[np.uint8]:
    """Turns sets of labels into a mark for each label.

    Args:
        values: B lists of labels.
        positions: Positions of the labels by name, as `label_text.positions_of` makes them.
        classes: Names of the K labels, for the message.
        target: Name of the target column, for the message.

    Returns:
        uint8 [B, K], 1 where a row has a label.

    Raises:
        DataError: A label is unknown; the message names its row.
    """
    marks_BK = np.zeros((len(values), len(classes)), dtype=np.uint8)
    for row, labels in enumerate(values):
        for label in labels:
            position = find_position(positions, label)
            if position is None:
                message = f"rows[{row}].{target}: {shown(label)} is not one of the model's labels"
                raise DataError(message, f"They are {', '.join(classes)}.")
            marks_BK[row, position] = 1
    return marks_BK
