"""Golden rows: held-out rows with the inputs and outputs that they had in the training process.

A process that loads the model computes them again, and refuses the model if they differ.

Shape suffixes: B rows, K outputs.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from raydc.errors import CheckpointError, DataError
from raydc.features import Features, Image
from raydc.models.network_parts import SHAPE_ROWS

Array = npt.NDArray[Any]
Forward = Callable[[Array], Array]

# Builds of libjpeg and PIL round pixels differently; a wrong feature differs by far more.
_PIXEL_TOLERANCE = 2
_INPUT_TOLERANCE = 1e-5
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
    return {"rows": rows, "inputs": _array_to_json(x), "outputs": outputs_BK.tolist()}


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
    _check_inputs(x, _array_from_json(golden["inputs"]), features)
    _check_outputs(forward(x), np.array(golden["outputs"]), features, _OUTPUT_TOLERANCE[device])
    _try_sizes(x, forward)


def _try_sizes(x: Array, forward: Forward) -> None:
    """Runs the smallest batches, which most requests are; `forward` refuses another shape."""
    for num_rows in SHAPE_ROWS:
        # As many rows as there are, again and again.
        forward(np.resize(x, (num_rows, *x.shape[1:])))


def read_inputs(golden: dict[str, Any]) -> Array | None:
    """Returns the stored inputs, [B, *shape]; None without rows."""
    return _array_from_json(golden["inputs"]) if golden["rows"] else None


def _array_to_json(array: Array) -> dict[str, Any]:
    # Base64 instead of numbers: inputs must come back bit for bit, and images are long.
    content = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"shape": list(array.shape), "dtype": str(array.dtype), "base64": content}


def _array_from_json(value: dict[str, Any]) -> Array:
    return np.frombuffer(base64.b64decode(value["base64"]), dtype=value["dtype"]).reshape(
        value["shape"]
    )


def _check_inputs(x: Array, expected: Array, features: Features) -> None:
    if x.shape != expected.shape:
        raise CheckpointError(
            f"golden rows: the features give {x.shape}, expected {expected.shape}"
        )
    # In float64, because differences of unsigned pixels would wrap around.
    difference = np.abs(x.astype(np.float64) - expected.astype(np.float64))
    allowed = (
        _PIXEL_TOLERANCE
        if x.dtype == np.uint8
        else _INPUT_TOLERANCE * np.maximum(1.0, np.abs(expected))
    )
    # `not <=` instead of `>`, so that NaN counts as different.
    wrong = np.argwhere(~(difference <= allowed))
    if len(wrong):
        place = tuple(wrong[0])
        column = _column_of_input(features, int(place[1]))
        raise CheckpointError(
            f"golden rows[{place[0]}].{column}: the features give {x[place]}, "
            f"expected {expected[place]}",
            "The features that serve are not those that trained; the bundle or this installation "
            "has changed.",
        )


def _column_of_input(features: Features, position: int) -> str:
    """Finds the column whose inputs include a position; a column may have several."""
    for name, column in features.columns.items():
        if isinstance(column, Image) or position < column.num_inputs:
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
