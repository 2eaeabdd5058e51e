"""Inputs and outputs of a model as its endpoint describes them. Runs in the replica.

They are the raw columns of the data set, one fast tensor that needs no decoding, and the outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raydc.errors import did_you_mean
from raydc.features import (
    CATEGORIES,
    DateParts,
    Features,
    Image,
    NumberList,
    SeriesWindow,
    Text,
    TokenColumn,
)

# Name of the tensor that holds all columns of a model whose columns are all numbers.
ALL_COLUMNS = "columns"


class RequestError(Exception):
    """A request that is refused.

    Args:
        status: HTTP status of the response, 400 or more.
        message: Sentence for the client: what is wrong, where, and what would be right.
        headers: Further headers of the response by name; None for none.
        param: Field of the request that is meant, in the terms of OpenAI; None if none is.
        code: Name of the error in the terms of OpenAI; None for that of its status.
    """

    def __init__(
        self,
        status: int,
        message: str,
        headers: dict[str, str] | None = None,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        # All arguments go to the base class, so that the error survives pickling.
        super().__init__(status, message, headers, param, code)
        self.status = status
        self.message = message
        self.headers = headers or {}
        self.param = param
        self.code = code

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Interface:
    """The inputs and outputs of a model, derived from its features."""

    features: Features

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Kind of each column by name, such as `numeric`, `categorical`, `image` or `window`."""
        return {name: column.kind for name, column in self.features.columns.items()}

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes or labels; empty for a regression."""
        return self.features.signature.classes

    @cached_property
    def image_column(self) -> str | None:
        """Name of the only column if it holds images: a file can be a whole request then."""
        only = len(self.kinds) == 1 and "image" in self.kinds.values()
        return next(iter(self.kinds)) if only else None

    @cached_property
    def image_columns(self) -> dict[str, Image]:
        """Columns that hold images, by name."""
        columns = self.features.columns
        return {name: column for name, column in columns.items() if isinstance(column, Image)}

    @cached_property
    def windows(self) -> dict[str, SeriesWindow]:
        """Inputs that hold the past steps of a series, by name."""
        columns = self.features.columns
        return {name: one for name, one in columns.items() if isinstance(one, SeriesWindow)}

    @cached_property
    def all_columns(self) -> str | None:
        """Name of the tensor [B, F] that may replace all F columns.

        None unless the model takes two or more columns, all of them numbers.
        """
        # A data set may have a column of that name, which then means the column.
        is_taken = ALL_COLUMNS in self.kinds
        if self.features.are_numbers and len(self.kinds) > 1 and not is_taken:
            return ALL_COLUMNS
        return None

    @cached_property
    def inputs(self) -> list[dict[str, Any]]:
        """Metadata of the tensor of each column."""
        required = set(self.features.always_given)
        return [
            _describe_input(name, column, name in required)
            for name, column in self.features.columns.items()
            # A language model has no tensors: texts come by another protocol.
            if not isinstance(column, TokenColumn)
        ]

    @cached_property
    def fast_input(self) -> dict[str, Any] | None:
        """Metadata of the one tensor that is a whole request and needs no decoding.

        None if the model takes several columns that are not all numbers.
        """
        if self.all_columns is not None:
            return {"name": self.all_columns, "datatype": "FP32", "shape": [-1, len(self.kinds)]}
        if self.image_column or (self.features.are_numbers and len(self.kinds) == 1):
            return self.inputs[0]
        return None

    @cached_property
    def outputs(self) -> list[dict[str, Any]]:
        """Metadata of each output tensor."""
        if self.features.token_column is not None:
            return []
        if not self.classes:
            num_values = self.features.signature.num_values
            shape = [-1, num_values] if num_values > 1 else [-1]
            return [{"name": "value", "datatype": "FP64", "shape": shape}]
        scores = {"name": "scores", "datatype": "FP32", "shape": [-1, len(self.classes)]}
        if self.features.has_label_sets:
            # A tensor is rectangular: which of the labels a row has, not their names.
            return [
                scores,
                {"name": "labels", "datatype": "BOOL", "shape": [-1, len(self.classes)]},
            ]
        return [scores, {"name": "label", "datatype": "BYTES", "shape": [-1]}]

    def suggest(self, name: Any) -> str:
        """Clause for an error message: the input that an unknown name resembles, or all inputs."""
        known = [*self.kinds, *([self.all_columns] if self.all_columns else [])]
        suggestion = did_you_mean(name, known)
        return suggestion or f"the model's inputs are {', '.join(map(repr, known))}"


def _describe_input(name: str, column: Any, is_required: bool) -> dict[str, Any]:
    if isinstance(column, Image):
        shape = [-1, column.height, column.width]
        # Grey images have no axis for channels: clients send [B, H, W].
        shape += [column.channels] if column.channels > 1 else []
        also = "BYTES [-1], each a PNG or JPEG file (base64 inside JSON); other sizes are resized"
        return {
            "name": name,
            "datatype": "UINT8",
            "shape": shape,
            "parameters": {"kind": "image", "also": also},
        }
    parameters: dict[str, Any] = {"kind": column.kind}
    if is_required:
        parameters["required"] = True
    if isinstance(column, CATEGORIES):
        parameters["categories"] = list(column.categories)
        return {"name": name, "datatype": "BYTES", "shape": [-1], "parameters": parameters}
    if isinstance(column, SeriesWindow):
        parameters |= {"required": True, "columns": list(column.columns)}
        shape = [-1, column.length, len(column.columns)]
        return {"name": name, "datatype": "FP64", "shape": shape, "parameters": parameters}
    if isinstance(column, Text):
        parameters["max_tokens"] = column.max_tokens
        return {"name": name, "datatype": "BYTES", "shape": [-1], "parameters": parameters}
    if isinstance(column, DateParts):
        also = "FP64 [-1], seconds since 1970"
        parameters["also"] = also
        return {"name": name, "datatype": "BYTES", "shape": [-1], "parameters": parameters}
    shape = [-1]
    if isinstance(column, NumberList):
        shape = [-1, *([-1] if column.max_items else []), *column.field.shape]
        if column.max_items:
            parameters["max_items"] = column.max_items
        parameters["also"] = "BYTES [-1], each a list as JSON text; then lengths may differ"
    return {"name": name, "datatype": "FP64", "shape": shape, "parameters": parameters}


def json_type_of(value: Any) -> str:
    """Type of a JSON value, with its article, for messages."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
    }
    return "null" if value is None else names.get(type(value), type(value).__name__)


def check_num_rows(num_rows: int, max_rows: int, place: str) -> None:
    """Refuses a request with too many rows.

    Args:
        num_rows: Rows that a pass through the model would get.
        max_rows: The endpoint's `max_request_rows`.
        place: What has the rows, for the message: `the form`, `inputs[0]`.

    Raises:
        RequestError: 413 if there are more than `max_rows`.
    """
    if num_rows > max_rows:
        raise RequestError(413, f"{place} has {num_rows} rows; max_request_rows is {max_rows}")
