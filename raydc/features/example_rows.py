"""Rows made up from a signature: to try a network before it gets real ones. Pure.

Shape suffixes: B rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from raydc.features.record import Array, Inputs, Ragged, Record
from raydc.features.signature import Field, Signature

# Lists of a few items: a network is tried on rows of several lengths.
_FEW_ITEMS = 3


def zeros(signature: Signature, num_rows: int, has_longest: bool = False) -> Inputs:
    """Rows of zeros.

    Args:
        signature: Shapes and types of a row.
        num_rows: Length of the first axis, B.
        has_longest: Whether lists are as long as they may be; else of one, two and three items.
    """
    lengths = None
    if has_longest and signature.kind == "record":
        lengths = {name: one.max_length for name, one in signature.fields.items()}
    return _make(signature, num_rows, lambda shape, field: np.zeros(shape, field.dtype), lengths)


def random(
    signature: Signature,
    choose: np.random.Generator,
    num_rows: int,
    lengths: Mapping[str, int] | None = None,
) -> Inputs:
    """Rows of random pixels, codes and numbers.

    Args:
        signature: Shapes and types of a row.
        choose: Generator from which values are drawn.
        num_rows: Length of the first axis, B.
        lengths: Items of each list by field; None means one, two and three in turn.
    """

    def draw(shape: tuple[int, ...], field: Field) -> Array:
        if field.num_codes:
            return choose.integers(0, field.num_codes, size=shape).astype(field.dtype)
        if field.dtype == "uint8":
            return choose.integers(0, 256, size=shape, dtype=np.uint8)
        return choose.standard_normal(shape, dtype=np.float32).astype(field.dtype)

    return _make(signature, num_rows, draw, lengths)


def _make(
    signature: Signature,
    num_rows: int,
    draw: Callable[[tuple[int, ...], Field], Array],
    lengths: Mapping[str, int] | None = None,
) -> Inputs:
    if signature.kind != "record":
        one_array = Field("array", signature.dtype, signature.shape)
        return draw((num_rows, *signature.shape), one_array)
    fields: dict[str, Any] = {}
    for name, field in signature.fields.items():
        if field.form == "array":
            fields[name] = draw((num_rows, *field.shape), field)
            continue
        most = min(_FEW_ITEMS, field.max_length)
        sizes = [lengths[name] if lengths else 1 + row % most for row in range(num_rows)]
        lists = [draw((size, *field.shape), field) for size in sizes]
        fields[name] = Ragged.of_lists(lists, draw((0, *field.shape), field))
    return Record(fields)
