"""What a model takes and gives, as its endpoint shows it: raw columns, one fast tensor, outputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raydc.errors import did_you_mean
from raydc.features import Categorical, Features, Image

# Of the tensor that holds all columns of a model that takes numbers only.
ALL_COLUMNS = "columns"


class RequestError(Exception):
    """A request that is refused: the HTTP status and the sentence for the client."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.headers = headers or {}

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Interface:
    """The inputs and outputs of a model, from its features."""

    features: Features

    @cached_property
    def kinds(self) -> dict[str, str]:
        """`numeric`, `categorical` or `image` by column."""
        return {name: column.kind for name, column in self.features.columns.items()}

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """None for a regression."""
        return self.features.signature.classes

    @cached_property
    def image_column(self) -> str | None:
        return next((name for name, kind in self.kinds.items() if kind == "image"), None)

    @cached_property
    def all_columns(self) -> str | None:
        """Name of the one tensor [B, F] that may stand for all columns; None where not all of them are numbers."""
        taken = ALL_COLUMNS in self.kinds
        return (
            ALL_COLUMNS if self.features.are_numbers and len(self.kinds) > 1 and not taken else None
        )

    @cached_property
    def inputs(self) -> list[dict[str, Any]]:
        """Metadata of a tensor for each column."""
        return [_input(name, column) for name, column in self.features.columns.items()]

    @cached_property
    def fast_input(self) -> dict[str, Any] | None:
        """Metadata of the one tensor that holds a whole request and needs no decoding, where there is such a one."""
        if self.all_columns is not None:
            return {"name": self.all_columns, "datatype": "FP32", "shape": [-1, len(self.kinds)]}
        return (
            self.inputs[0]
            if self.image_column or (self.features.are_numbers and len(self.kinds) == 1)
            else None
        )

    @cached_property
    def outputs(self) -> list[dict[str, Any]]:
        if not self.classes:
            return [{"name": "value", "datatype": "FP64", "shape": [-1]}]
        return [
            {"name": "scores", "datatype": "FP32", "shape": [-1, len(self.classes)]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
        ]

    def advice(self, name: Any) -> str:
        """What a client may have meant by the name of an input that there is not."""
        known = [*self.kinds, *([self.all_columns] if self.all_columns else [])]
        inputs = f"the model's inputs are {', '.join(map(repr, known))}"
        return did_you_mean(name, known) or inputs


def _input(name: str, column: Any) -> dict[str, Any]:
    if isinstance(column, Image):
        shape = [-1, column.height, column.width] + (
            [column.channels] if column.channels > 1 else []
        )
        also = "BYTES [-1], each a PNG or JPEG file (in base64 where it stands in JSON); other sizes are resized"
        return {
            "name": name,
            "datatype": "UINT8",
            "shape": shape,
            "parameters": {"kind": "image", "also": also},
        }
    parameters: dict[str, Any] = {"kind": column.kind}
    if isinstance(column, Categorical):
        parameters["categories"] = list(column.categories)
        return {"name": name, "datatype": "BYTES", "shape": [-1], "parameters": parameters}
    return {"name": name, "datatype": "FP64", "shape": [-1], "parameters": parameters}


def kind_of(value: Any) -> str:
    """The kind of a JSON value, for messages."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
    }
    return "null" if value is None else names.get(type(value), type(value).__name__)


def check_rows(num_rows: int, max_rows: int, place: str) -> None:
    """Raises RequestError 413 where there are too many."""
    if num_rows > max_rows:
        raise RequestError(413, f"{place} has {num_rows} rows; max_request_rows is {max_rows}")
