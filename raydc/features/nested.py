"""Nested lists, as JSON has them, to arrays."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

_NUMBERS = {int, float, bool}
_RAGGED = "its rows differ in length"


def to_array(value: Any) -> npt.NDArray[Any]:
    """The numbers of nested lists as an array; its type is numpy's choice.

    Leaves are looked at first: numpy would make every one of them as wide as the longest text among them, 4 bytes a
    character, so that a body of a megabyte could ask for the memory of a machine.

    Raises:
        ValueError: Something in them is no number, or the lists of a level differ in length.
    """
    if isinstance(value, list):
        leaves = value
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
