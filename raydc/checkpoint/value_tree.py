"""Nested values with their tensors replaced by names, for state without pickled tensors. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

# Key of a dict that stands for a tensor; its value is the tensor's name.
_TENSOR = "__tensor__"


def split_tensors(value: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """Copies nested values and replaces each tensor by its name.

    Args:
        value: Dicts, lists, tuples, tensors and plain values, nested.
        tensors: Filled with the tensors by name; they are not copied.
        path: Path of `value` in the outermost value.
    """
    if isinstance(value, Tensor):
        tensors[path] = value.detach()
        return {_TENSOR: path}
    if isinstance(value, dict):
        copied = {
            key: split_tensors(item, tensors, f"{path}.{key}" if path else str(key))
            for key, item in value.items()
        }
        # A schedule of torch keeps a Counter, whose type must survive.
        return copied if type(value) is dict else type(value)(copied)
    if isinstance(value, list | tuple):
        return type(value)(
            split_tensors(item, tensors, f"{path}.{number}") for number, item in enumerate(value)
        )
    return value


def join_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Returns nested values as they were before `split_tensors`, with tensors by name."""
    if isinstance(value, dict):
        if value.keys() == {_TENSOR}:
            return tensors[value[_TENSOR]]
        joined = {key: join_tensors(item, tensors) for key, item in value.items()}
        return joined if type(value) is dict else type(value)(joined)
    if isinstance(value, list | tuple):
        return type(value)(join_tensors(item, tensors) for item in value)
    return value
