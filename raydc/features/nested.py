"""Nested lists of JSON to arrays, within bounded memory. Pure; used in replicas and tasks."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

_NUMBERS = {int, float, bool}
_RAGGED = "its rows differ in length"


def to_array(value: Any) -> npt.NDArray[Any]:
    """Converts nested lists of numbers to an array.

    Args:
        value: Nested lists, or anything else that numpy takes.

    Returns:
        An array of the type that numpy chooses.

    Raises:
        ValueError: A leaf is not a number, or the lists of a level differ in length.
    """
    # Leaves are checked first: numpy makes every leaf as wide as the longest text among them, at
    # 4 bytes a character, so that a request of a megabyte could exhaust the memory of a machine.
    if isinstance(value, list):
        leaves = value
        # One level at a time, so that the loops over leaves run in C.
        while (kinds := set(map(type, leaves))) == {list}:
            leaves = list(itertools.chain.from_iterable(leaves))
        if list in kinds:
            raise ValueError(_RAGGED)
        if not kinds <= _NUMBERS:
            raise ValueError("its values are not numbers")
    try:
        return np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(_RAGGED) from error
