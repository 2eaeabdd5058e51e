"""Inputs and outputs of a network. Pure; used in every process."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True)
class Field:
    """One named part of a row.

    Attributes:
        form: `array` of a fixed shape, or `list` of any length.
        dtype: numpy's name of the type of its values, such as `float32`.
        shape: Shape of the array, or of one item of the list.
        num_codes: Values are codes below this number, such as categories or tokens; 0 for
            measurements.
        max_length: Maximum number of items in a list; longer lists are cut.
        mean: Mean of each channel of an image, in units of pixels; empty for other fields.
        scale: Divisor of each channel, in the same units.
        columns: Names of the columns that are joined in it, in their order; features of an older
            raydc name none.
        widths: Numbers of inputs of these columns.
        own_column: Of the past steps of a series: which of its columns is the target; None if none
            is.
        end_code: Of documents: the code that ends one and begins the next; None for other fields.
        has_marks: Whether marks are added to the codes of tokens, `num_codes` times each: where a
            conversation begins, and which tokens are learnt.
        is_pair: Whether a list holds two texts. The codes of tokens of the second type, as the
            tokenizer counts types, have half of `num_codes` added.
    """

    form: Literal["array", "list"]
    dtype: str
    shape: tuple[int, ...] = ()
    num_codes: int = 0
    max_length: int = 0
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    # Not compared: a model of before they were named is evaluated on the same data set.
    columns: tuple[str, ...] = field(default=(), compare=False)
    widths: tuple[int, ...] = field(default=(), compare=False)
    own_column: int | None = None
    end_code: int | None = None
    has_marks: bool = False
    is_pair: bool = False

    @property
    def is_window(self) -> bool:
        """Whether it holds the past steps of a series: [steps, columns]."""
        return self.form == "array" and self.dtype == "float32" and len(self.shape) == 2

    @property
    def row_bytes(self) -> int:
        """Bytes of the values of a row; of a list, of the longest one."""
        num_items = self.max_length if self.form == "list" else 1
        return num_items * math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values without those at their defaults, so that later ones change no hash."""
        default = Field(self.form, self.dtype)
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name in ("form", "dtype") or value != getattr(default, name)
        }


@dataclass(frozen=True)
class Signature:
    """The shape of one row, and the meaning of the outputs.

    Attributes:
        kind: `vector` or `image` for a row that is one array, `record` for one of named fields.
        shape: Shape of a row: (F,) for a vector, (C, H, W) for an image, () for a record.
        dtype: float32 for a vector, uint8 for an image; empty for a record.
        mean: Mean of each channel of an image, in units of pixels (0 to 255); empty for a vector,
            which is stored scaled.
        scale: Divisor of each channel, in the same units. The network itself computes
            (x - mean) / scale, so that images stay bytes until then.
        task: Whether the outputs are scores of classes, a value, a score of each label, or the loss
            of each token of a text.
        classes: Names of the classes or labels in the order of the outputs; empty for a regression.
        fields: Fields of a record by name; empty for one array.
        num_values: Values that a regression predicts for a row: the steps of a forecast. Of a
            language model the tokens that a row predicts.
    """

    kind: Literal["vector", "image", "record"]
    shape: tuple[int, ...]
    dtype: Literal["float32", "uint8", ""]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    task: Literal["classification", "regression", "multilabel", "language_modelling"]
    classes: tuple[str, ...] = ()
    fields: Mapping[str, Field] = field(default_factory=dict)
    num_values: int = 1

    @property
    def num_outputs(self) -> int:
        """Outputs of the network: one per class or label, one for a regression, one per token."""
        has_values = self.task in ("regression", "language_modelling")
        return self.num_values if has_values else len(self.classes)

    @property
    def has_lists(self) -> bool:
        """Whether rows have fields of any length."""
        return any(one.form == "list" for one in self.fields.values())

    @property
    def row_bytes(self) -> int:
        """Bytes of a row as the network takes it, at most."""
        if self.kind == "record":
            return sum(one.row_bytes for one in self.fields.values())
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, which `from_dict` reads."""
        # JSON has no tuples: they become lists here rather than in `json.dumps`, so that the hash
        # of features is the same before and after a file.
        value = {
            name: list(part) if isinstance(part, tuple) else part
            for name, part in asdict(self).items()
            if name not in ("fields", "num_values")
        }
        # Left out where it is empty, so that features of an older raydc keep their hash. A list,
        # because the order of the fields is the order of the inputs.
        if self.num_values > 1:
            value["num_values"] = self.num_values
        if self.fields:
            value["fields"] = [{"name": n, **one.to_dict()} for n, one in self.fields.items()]
        return value

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Signature:
        """The inverse of `to_dict`. Raises TypeError if a field is missing or unknown."""
        parts = {name: part for name, part in value.items() if name != "fields"}
        fields = {one["name"]: _field_from_dict(one) for one in value.get("fields", ())}
        return cls(**_with_tuples(parts), fields=fields)


def _field_from_dict(value: dict[str, Any]) -> Field:
    return Field(**_with_tuples({key: part for key, part in value.items() if key != "name"}))


def _with_tuples(value: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in value.items()}
