"""Golden rows: held-out rows with the inputs and outputs that they gave when the model was trained.

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

Array = npt.NDArray[Any]
Forward = Callable[[Array], Array]

# Builds of libjpeg and PIL may round a pixel differently; a wrong feature is off by far more.
_PIXEL_TOLERANCE = 2
_INPUT_TOLERANCE = 1e-5
# Of the largest output. GPUs multiply convolutions in TF32, with 10 bits of mantissa.
_OUTPUT_TOLERANCE = {"cpu": 1e-4, "cuda": 2e-2}


def make(rows: list[dict[str, Any]], features: Features, forward: Forward) -> dict[str, Any]:
    """The content of `golden.json`.

    Raises:
        CheckpointError: The model gives something that is no finite number.
    """
    if not rows:
        return {"rows": [], "inputs": None, "outputs": []}
    x = features.apply(features.from_json_rows(rows))
    outputs_BK = forward(x)
    wrong = np.argwhere(~np.isfinite(outputs_BK))
    if len(wrong):
        raise CheckpointError(
            f"golden rows[{wrong[0][0]}]: the model gives {outputs_BK[tuple(wrong[0])]}",
            "Training has diverged. Lower train.learning_rate or set train.gradient_clip_norm.",
        )
    return {"rows": rows, "inputs": _array_to_json(x), "outputs": outputs_BK.tolist()}


def check(golden: dict[str, Any], features: Features, forward: Forward, device: str) -> None:
    """Compares what this process computes with what `make` saw.

    Raises:
        CheckpointError: The first input or output that differs, named by row and column.
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


def inputs_of(golden: dict[str, Any]) -> Array | None:
    """The inputs that `make` saw; None without rows."""
    return _array_from_json(golden["inputs"]) if golden["rows"] else None


def _array_to_json(array: Array) -> dict[str, Any]:
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
    difference = np.abs(x.astype(np.float64) - expected.astype(np.float64))
    allowed = (
        _PIXEL_TOLERANCE
        if x.dtype == np.uint8
        else _INPUT_TOLERANCE * np.maximum(1.0, np.abs(expected))
    )
    wrong = np.argwhere(~(difference <= allowed))
    if len(wrong):
        place = tuple(wrong[0])
        column = _column_of_input(features, int(place[1]))
        raise CheckpointError(
            f"golden rows[{place[0]}].{column}: the features give {x[place]}, expected {expected[place]}",
            "The features that serve are not those that trained; the bundle or this installation has changed.",
        )


def _column_of_input(features: Features, position: int) -> str:
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
            f"golden rows[{row}]: output {name!r} is {outputs_BK[row, output]}, expected {expected_BK[row, output]}",
            "The weights or the model's code are not those that were trained.",
        )
