"""Nested lists of JSON to arrays, within bounded memory. Pure; used in replicas and tasks."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

_NUMBERS = {int, float, bool}
_RAGGED = "its rows differ in length"


def to_array(value: Any, takes_booleans: bool = True) -> npt.NDArray[Any]:
    """Converts nested lists of numbers to an array.

    Args:
        value: Nested lists, or anything else that numpy takes.
        takes_booleans: Whether true and false in lists count as 1 and 0.

    Returns:
        An array of the type that numpy chooses.

    Raises:
        ValueError: A leaf is not a number or a whole number of more than 64 bits, or the lists of
            a level differ in length; or a leaf is true or false, and `takes_booleans` is false.
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
        if bool in kinds and not takes_booleans:
            raise ValueError("it holds true or false")
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(_RAGGED) from error
    # numpy keeps such whole numbers as Python objects.
    if isinstance(value, list) and array.dtype == object:
        raise ValueError("it holds a whole number of more than 64 bits")
    return array
