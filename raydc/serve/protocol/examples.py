"""Example requests for the OpenAPI document, which the model answers. Runs in the replica.

Their values are typical (means, first categories), never rows of the data set.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from typing import Any

import numpy as np

from raydc.features import (
    CATEGORIES,
    Column,
    DateParts,
    Image,
    NumberList,
    Numeric,
    SeriesWindow,
    Text,
)
from raydc.features.images import encode_png
from raydc.serve.protocol.interface import Interface


def example_row(interface: Interface) -> dict[str, Any]:
    """Makes a row of typical values: means, first categories, a grey image, any text."""
    return {name: _example_value(column) for name, column in interface.features.columns.items()}


def _example_value(column: Column) -> Any:
    if isinstance(column, Image):
        return encode_png(
            np.full((column.height, column.width, column.channels), 128, dtype=np.uint8)
        )
    if isinstance(column, Text):
        return "A text of some words"
    if isinstance(column, NumberList):
        item = [_rounded(mean) for mean in column.mean]
        if not column.max_items:
            return item
        return [item if column.has_width else item[0]] * min(3, column.max_items)
    if isinstance(column, CATEGORIES):
        return column.categories[0] if column.categories else "?"
    if isinstance(column, DateParts):
        return column.typical
    if isinstance(column, SeriesWindow):
        # As rows of the series, which say what their numbers are.
        step = {
            name: _rounded(mean) for name, mean in zip(column.columns, column.shifts, strict=True)
        }
        return [step] * column.length
    assert isinstance(column, Numeric)
    return _rounded(column.mean)


def _rounded(number: float) -> float:
    # Four significant digits, and never fewer than the whole part.
    digits = 3 - math.floor(math.log10(abs(number))) if number else 0
    return round(number, max(digits, 0))


def example_csv(interface: Interface) -> str:
    """Makes the example row as a CSV file with a header."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    values = example_row(interface)
    # Lists and the past steps of a series are JSON in a cell.
    cells = [json.dumps(one) if isinstance(one, list) else one for one in values.values()]
    writer.writerows([list(values), cells])
    return buffer.getvalue()


def example_infer_request(interface: Interface) -> dict[str, Any]:
    """Makes the example row as a v2 request."""
    inputs = [
        _example_tensor(interface.features.columns[name], name, value)
        for name, value in example_row(interface).items()
    ]
    return {"id": "1", "inputs": inputs}


def _example_tensor(column: Column, name: str, value: Any) -> dict[str, Any]:
    if isinstance(column, SeriesWindow):
        data = [number for step in value for number in step.values()]
        shape = [1, column.length, len(column.columns)]
        return {"name": name, "shape": shape, "datatype": "FP64", "data": data}
    if isinstance(column, NumberList):
        shape = [1, *np.shape(value)]
        return {"name": name, "shape": shape, "datatype": "FP64", "data": np.ravel(value).tolist()}
    datatype = "FP64" if column.kind == "numeric" else "BYTES"
    return {"name": name, "shape": [1], "datatype": datatype, "data": [value]}


def example_image(interface: Interface) -> bytes:
    """Makes the example row's image as a PNG file."""
    return base64.b64decode(example_row(interface)[str(interface.image_column)])
