"""Golden rows: held-out rows with the inputs and outputs that they had in the training process.

A process that loads the model computes them again, and refuses the model if they differ.

Shape suffixes: B rows, K outputs.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from raydc.errors import CheckpointError, DataError
from raydc.features import Features, Inputs, Ragged, Record, TableColumn
from raydc.features.record import repeat_rows
from raydc.features.row_inputs import is_in_table
from raydc.features.table_layout import COLUMNS
from raydc.models.network_parts import SHAPE_ROWS

Array = npt.NDArray[Any]
Forward = Callable[[Inputs], Array]

# Builds of libjpeg and PIL round pixels differently; a wrong feature differs by far more.
_PIXEL_TOLERANCE = 2
_INPUT_TOLERANCE = 1e-5
_OTHER_FEATURES = (
    "The features that serve are not those that trained; the bundle or this installation has "
    "changed."
)
# Fraction of the largest output. GPUs multiply convolutions in TF32, with 10 bits of mantissa.
_OUTPUT_TOLERANCE = {"cpu": 1e-4, "cuda": 2e-2}


def compute(rows: list[dict[str, Any]], features: Features, forward: Forward) -> dict[str, Any]:
    """Computes the content of `golden.json`.

    Args:
        rows: Held-out JSON rows; may be empty.
        features: Features of the bundle, which turn the rows into inputs.
        forward: Maps inputs [B, *shape] to outputs [B, K] by the bundle's model.

    Raises:
        CheckpointError: An output is not finite, or the model does not take one, two or three
            rows.
    """
    if not rows:
        return {"rows": [], "inputs": None, "outputs": []}
    x = features.apply(features.from_json_rows(rows))
    outputs_BK = forward(x)
    _try_sizes(x, forward)
    wrong = np.argwhere(~np.isfinite(outputs_BK))
    if len(wrong):
        raise CheckpointError(
            f"golden rows[{wrong[0][0]}]: the model gives {outputs_BK[tuple(wrong[0])]}",
            "Training has diverged. Lower train.learning_rate or set train.gradient_clip_norm.",
        )
    return {"rows": rows, "inputs": _to_json(x), "outputs": outputs_BK.tolist()}


def check(golden: dict[str, Any], features: Features, forward: Forward, device: str) -> None:
    """Compares what this process computes with what `compute` stored.

    Args:
        golden: Content of `golden.json`, as `compute` returned it.
        features: Features of the loaded bundle, whose inputs are compared.
        forward: Forward pass of the loaded model, maps [B, *shape] to [B, K].
        device: `cpu` or `cuda`, which decides the tolerance.

    Raises:
        CheckpointError: An input or output differs, and the message names the first one; or the
            model does not take one, two or three rows.
    """
    rows = golden["rows"]
    if not rows:
        return
    try:
        x = features.apply(features.from_json_rows(rows))
    except DataError as error:
        raise CheckpointError(f"golden rows: {error.message}", error.hint) from error
    _check_inputs(x, _from_json(golden["inputs"]), features)
    _check_outputs(forward(x), np.array(golden["outputs"]), features, _OUTPUT_TOLERANCE[device])
    _try_sizes(x, forward)


def _try_sizes(x: Inputs, forward: Forward) -> None:
    """Runs the smallest batches, which most requests are; `forward` refuses a different shape."""
    for num_rows in SHAPE_ROWS:
        # As many rows as there are, again and again.
        forward(repeat_rows(x, num_rows))


def read_inputs(golden: dict[str, Any]) -> Inputs | None:
    """Returns the stored inputs, [B, *shape] or a record; None without rows."""
    return _from_json(golden["inputs"]) if golden["rows"] else None


def _to_json(x: Inputs) -> dict[str, Any]:
    if not isinstance(x, Record):
        return _array_to_json(x)
    fields = []
    for name, values in x.fields.items():
        if isinstance(values, Ragged):
            lists = {"lengths": values.lengths.tolist(), **_array_to_json(values.values_N)}
            fields.append({"name": name, **lists})
        else:
            fields.append({"name": name, **_array_to_json(values)})
    return {"fields": fields}


def _from_json(value: dict[str, Any]) -> Inputs:
    if "fields" not in value:
        return _array_from_json(value)
    fields: dict[str, Any] = {}
    for one in value["fields"]:
        values = _array_from_json(one)
        if "lengths" in one:
            offsets = np.concatenate([[0], np.cumsum(one["lengths"])]).astype(np.int64)
            fields[one["name"]] = Ragged(values, offsets)
        else:
            fields[one["name"]] = values
    return Record(fields)


def _array_to_json(array: Array) -> dict[str, Any]:
    # Base64 instead of numbers: inputs must come back bit for bit, and images are long.
    content = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"shape": list(array.shape), "dtype": str(array.dtype), "base64": content}


def _array_from_json(value: dict[str, Any]) -> Array:
    return np.frombuffer(base64.b64decode(value["base64"]), dtype=value["dtype"]).reshape(
        value["shape"]
    )


def _check_inputs(x: Inputs, expected: Inputs, features: Features) -> None:
    if not isinstance(x, Record) or not isinstance(expected, Record):
        if isinstance(x, Record) or isinstance(expected, Record):
            raise CheckpointError(
                "golden rows: the features give fields that differ from the stored"
            )
        _check_array(x, expected, lambda position: _column_of_input(features, position))
        return
    if list(x.fields) != list(expected.fields):
        found, stored = ", ".join(x.fields), ", ".join(expected.fields)
        raise CheckpointError(f"golden rows: the features give {found}, expected {stored}")
    for name, values in x.fields.items():
        known = expected.fields[name]
        if isinstance(values, Ragged) and isinstance(known, Ragged):
            _check_lists(name, values, known)
        elif name == COLUMNS:
            _check_array(values, known, lambda position: _column_of_input(features, position))
        else:
            are_codes = bool(features.signature.fields[name].num_codes)
            _check_array(values, known, partial(_same_name, name), are_codes)


def _same_name(name: str, _: int) -> str:
    return name


def _check_lists(name: str, lists: Ragged, expected: Ragged) -> None:
    for row, (first, second) in enumerate(zip(lists.lengths, expected.lengths, strict=True)):
        found, stored = lists[row : row + 1].values_N, expected[row : row + 1].values_N
        if first != second or not np.allclose(found, stored, rtol=_INPUT_TOLERANCE, atol=0):
            raise CheckpointError(
                f"golden rows[{row}].{name}: the features give {found.tolist()[:8]} ({first} "
                f"items), expected {stored.tolist()[:8]} ({second} items)",
                _OTHER_FEATURES,
            )


def _check_array(
    x: Any, expected: Any, column_of: Callable[[int], str], are_codes: bool = False
) -> None:
    if x.shape != expected.shape:
        raise CheckpointError(
            f"golden rows: the features give {x.shape}, expected {expected.shape}"
        )
    # In float64, because differences of unsigned pixels would wrap around.
    difference = np.abs(x.astype(np.float64) - expected.astype(np.float64))
    allowed = _INPUT_TOLERANCE * np.maximum(1.0, np.abs(expected))
    if are_codes:
        # The code beside that of a category is another category.
        allowed = np.zeros(1)
    elif x.dtype == np.uint8:
        allowed = np.full(1, _PIXEL_TOLERANCE)
    # `not <=` instead of `>`, so that NaN counts as different.
    wrong = np.argwhere(~(difference <= allowed))
    if len(wrong):
        place = tuple(wrong[0])
        column = column_of(int(place[1]) if len(place) > 1 else 0)
        raise CheckpointError(
            f"golden rows[{place[0]}].{column}: the features give {x[place]}, "
            f"expected {expected[place]}",
            _OTHER_FEATURES,
        )


def _column_of_input(features: Features, position: int) -> str:
    """Finds the column whose inputs include a position; a column may have several."""
    for name, column in features.columns.items():
        if features.signature.kind == "record" and not is_in_table(column):
            continue
        if not isinstance(column, TableColumn) or position < column.num_inputs:
            return name
        position -= column.num_inputs
    return "?"


def _check_outputs(
    outputs_BK: Array, expected_BK: Array, features: Features, tolerance: float
) -> None:
    if outputs_BK.shape != expected_BK.shape:
        raise CheckpointError(
            f"golden rows: the model gives {outputs_BK.shape}, expected {expected_BK.shape}"
        )
    allowed = tolerance * max(1.0, float(np.abs(expected_BK).max()))
    wrong = np.argwhere(~(np.abs(outputs_BK - expected_BK) <= allowed))
    if len(wrong):
        row, output = (int(index) for index in wrong[0])
        name = features.signature.classes[output] if features.signature.classes else features.target
        raise CheckpointError(
            f"golden rows[{row}]: output {name!r} is {outputs_BK[row, output]}, "
            f"expected {expected_BK[row, output]}",
            "The weights or the model's code are not those that were trained.",
        )
