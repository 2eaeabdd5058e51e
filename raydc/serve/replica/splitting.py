"""Forward passes that fail, computed again in parts, so that only the fault's own request fails.

Runs in a replica, on the event loop or in the thread of forward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raydc.features import Inputs
from raydc.features.record import join_rows
from raydc.models.device import is_out_of_memory

Array = npt.NDArray[Any]
Forward = Callable[[Inputs], Array]
Outcome = Array | Exception


def compute_each(
    forward: Forward, inputs: Sequence[Inputs], count_split: Callable[[], None]
) -> list[Outcome]:
    """Computes several requests in one forward pass, or in several if it fails.

    A joined batch that fails is halved until each half is computed or is one request. A request
    that is alone and runs out of memory is halved by its rows.

    Args:
        forward: Maps inputs of B rows to outputs with B rows.
        inputs: Inputs [B, *shape] of each request, in the order of the result.
        count_split: Called whenever a batch is halved.

    Returns:
        For each request its outputs, or the error that it raises when it is alone.
    """
    try:
        # A single request is not copied.
        x = inputs[0] if len(inputs) == 1 else join_rows(inputs)
        return _rows_of_each(forward(x), inputs)
    # A model may raise anything.
    except Exception as error:  # noqa: BLE001
        failure = error
    if len(inputs) > 1:
        # The error's traceback holds the activations of the batch, whose memory is needed now.
        del failure
        count_split()
        middle = len(inputs) // 2
        return [
            *compute_each(forward, inputs[:middle], count_split),
            *compute_each(forward, inputs[middle:], count_split),
        ]
    x = inputs[0]
    if len(x) == 1 or not is_out_of_memory(failure):
        return [failure]
    del failure
    count_split()
    middle = len(x) // 2
    try:
        parts = [compute_alone(forward, part, count_split) for part in (x[:middle], x[middle:])]
    except Exception as error:  # noqa: BLE001
        return [error]
    return [np.concatenate(parts)]


def compute_alone(forward: Forward, x: Inputs, count_split: Callable[[], None]) -> Array:
    """Computes one request; by halves of its rows if memory runs out.

    Args:
        forward: Maps inputs of B rows to outputs with B rows.
        x: Inputs of the request, [B, *shape].
        count_split: Called whenever the rows are halved.

    Raises:
        Exception: Whatever `forward` raises.
    """
    (outcome,) = compute_each(forward, [x], count_split)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _rows_of_each(outputs: Array, inputs: Sequence[Inputs]) -> list[Outcome]:
    num_rows = sum(map(len, inputs))
    if len(outputs) != num_rows:
        # Handing them out would give a client the rows of another.
        raise ValueError(f"the model gave {len(outputs)} rows for {num_rows}")
    parts: list[Outcome] = []
    start = 0
    for x in inputs:
        parts.append(outputs[start : start + len(x)])
        start += len(x)
    return parts
