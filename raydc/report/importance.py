"""What the answers of a model depend on: columns that are shuffled, and gradients along a path.

Runs in the driver, on some held-out rows.

Shape suffixes: B rows, D inputs, K outputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from raydc.bundle import Bundle
from raydc.features import Features, Inputs, Record
from raydc.features.row_inputs import table_columns
from raydc.features.table_layout import COLUMNS

_NUM_SHUFFLES = 3
# Points on the path from the mean row to each row.
_PATH_STEPS = 32
_MAX_GRADIENT_ROWS = 256


def input_slices(features: Features, width: int) -> dict[str, slice]:
    """Finds the inputs of each column of numbers or categories.

    Args:
        features: Fitted features of the model.
        width: Number of inputs that all these columns have together.

    Returns:
        Positions of the inputs by column; empty if their number is not `width`.
    """
    places: dict[str, slice] = {}
    start = 0
    for name, column in table_columns(features.columns).items():
        places[name] = slice(start, start + column.num_inputs)
        start += column.num_inputs
    return places if start == width else {}


def shuffle_columns(
    bundle: Bundle,
    x: Inputs,
    loss_of: Callable[[npt.NDArray[np.float32]], float],
    until_s: float,
) -> dict[str, Any]:
    """Permutation importance: how much worse the loss is with the values of one column shuffled.

    Inputs of a column depend on its own value only, so it is enough to shuffle the inputs.

    Args:
        bundle: Model to explain.
        x: Inputs of the rows among which values are shuffled.
        loss_of: Computes the mean loss of the rows from raw outputs of the model.
        until_s: Moment of the monotonic clock at which to stop; columns after it are left out.

    Returns:
        `base` loss, number of `rows`, `columns`: for each its name, `rise` of the loss and
        `spread` over the shuffles, the most important first; and how many are `left_out`.
    """
    base = loss_of(bundle.forward(x))
    found = []
    places = _places(bundle, x)
    for number, (name, place) in enumerate(places.items()):
        if time.monotonic() > until_s:
            break
        # Seeded by the column's number, so that leaving out columns does not change the others.
        generator = np.random.default_rng([bundle.spec.seed, number])
        rises = [
            loss_of(bundle.forward(_shuffled(x, place, generator.permutation(len(x))))) - base
            for _ in range(_NUM_SHUFFLES)
        ]
        found.append((name, float(np.mean(rises)), float(np.std(rises))))
    found.sort(key=lambda one: -one[1])
    return {
        "base": base,
        "rows": len(x),
        "columns": [
            {"column": name, "rise": rise, "spread": spread} for name, rise, spread in found
        ],
        "left_out": len(places) - len(found),
    }


# Name of a field, and the positions of a column's inputs in it; None for the whole field.
_Place = tuple[str, slice | None]


def _places(bundle: Bundle, x: Inputs) -> dict[str, _Place]:
    """Where the inputs of each column are; empty for rows that are images."""
    fields = x.fields if isinstance(x, Record) else {COLUMNS: x}
    places: dict[str, _Place] = {}
    for field, values in fields.items():
        if field != COLUMNS:
            places[field] = (field, None)
        elif isinstance(values, np.ndarray) and values.ndim == 2:
            found = input_slices(bundle.features, values.shape[1])
            places |= {name: (COLUMNS, place) for name, place in found.items()}
    return places


def _shuffled(x: Inputs, where: _Place, order_B: npt.NDArray[np.int64]) -> Inputs:
    field, place = where
    values: Any = x.fields[field] if isinstance(x, Record) else x
    if place is None:
        shuffled = values[order_B]
    else:
        shuffled = values.copy()
        shuffled[:, place] = values[order_B, place]
    return Record({**x.fields, field: shuffled}, x.layout) if isinstance(x, Record) else shuffled


def integrate_gradients(
    network: torch.nn.Module, x_B: torch.Tensor, baseline: torch.Tensor, outputs_B: torch.Tensor
) -> torch.Tensor:
    """Integrated gradients (Sundararajan et al. 2017): what each input adds to an output.

    Args:
        network: Network in evaluation mode.
        x_B: Inputs of the rows to explain, float32 [B, D].
        baseline: Inputs at which the path to each row starts, [D].
        outputs_B: Position of the output to explain in each row.

    Returns:
        [B, D]; the values of a row add up to its output minus that of the baseline.
    """
    total = torch.zeros_like(x_B)
    for step in range(_PATH_STEPS):
        # The midpoint of each stretch of the path: exact for a quadratic function.
        along = (step + 0.5) / _PATH_STEPS
        point = (baseline + along * (x_B - baseline)).requires_grad_(True)
        chosen = network(point).gather(1, outputs_B[:, None]).sum()
        total += torch.autograd.grad(chosen, point)[0]
    return (x_B - baseline) * total / _PATH_STEPS


def explain_inputs(
    bundle: Bundle, x: npt.NDArray[Any], outputs_BK: npt.NDArray[np.float32]
) -> list[dict[str, Any]]:
    """Mean size of the integrated gradients of each column, from the mean row, over some rows.

    Args:
        bundle: Model whose inputs are one vector.
        x: Inputs of the rows to explain, [B, D].
        outputs_BK: Raw outputs of these rows; the greatest output of each row is explained.

    Returns:
        For each column its name and `share`, which add up to 1; the greatest first.
    """
    rows = torch.from_numpy(np.array(x[:_MAX_GRADIENT_ROWS], dtype=np.float32))
    chosen = torch.from_numpy(outputs_BK[:_MAX_GRADIENT_ROWS].argmax(axis=1))
    device = next((one.device for one in bundle.model.parameters()), torch.device("cpu"))
    shares = integrate_gradients(
        bundle.model, rows.to(device), rows.mean(dim=0).to(device), chosen.to(device)
    )
    sizes = shares.abs().mean(dim=0).double().cpu().numpy()
    total = float(sizes.sum()) or 1.0
    found = [
        (name, float(sizes[place].sum()) / total)
        for name, place in input_slices(bundle.features, len(sizes)).items()
    ]
    found.sort(key=lambda one: -one[1])
    return [{"column": name, "share": share} for name, share in found]
