"""Nested lists of JSON to arrays."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from raydc.features import nested


def test_to_array_needs_no_memory_for_a_long_text_among_many_leaves() -> None:
    value = [["x" * 20000], *[["y"]] * 2000]
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="not numbers"):
            nested.to_array(value)
        assert tracemalloc.get_traced_memory()[1] < 10 * 1024 * 1024, (
            "numpy would have taken 160 MB"
        )
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("value", [[[1], 2], [[1], [2, 3]], [1, [2]]])
def test_to_array_refuses_ragged_lists(value: list[Any]) -> None:
    with pytest.raises(ValueError, match="differ in length"):
        nested.to_array(value)
