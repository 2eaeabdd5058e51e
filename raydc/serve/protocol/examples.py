"""Requests that a model answers, for its document: rows of usual values, not rows of the data."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np

from raydc.features import Categorical, Image, Numeric
from raydc.features.images import encode_png
from raydc.serve.protocol.interface import Interface


def row(interface: Interface) -> dict[str, Any]:
    """A row of usual values: means, first categories, a grey image."""
    return {name: _example(column) for name, column in interface.features.columns.items()}


def _example(column: Numeric | Categorical | Image) -> Any:
    if isinstance(column, Image):
        return encode_png(
            np.full((column.height, column.width, column.channels), 128, dtype=np.uint8)
        )
    if isinstance(column, Categorical):
        return column.categories[0] if column.categories else "?"
    digits = 3 - math.floor(math.log10(abs(column.mean))) if column.mean else 0
    return round(column.mean, max(digits, 0))


def csv(interface: Interface) -> str:
    """The example row as a CSV file with names."""
    values = row(interface)
    return f"{','.join(values)}\n{','.join(map(str, values.values()))}\n"


def infer(interface: Interface) -> dict[str, Any]:
    """The example row as a v2 request."""
    inputs = [
        {
            "name": name,
            "shape": [1],
            "datatype": "FP64"
            if isinstance(interface.features.columns[name], Numeric)
            else "BYTES",
            "data": [value],
        }
        for name, value in row(interface).items()
    ]
    return {"id": "1", "inputs": inputs}


def image(interface: Interface) -> bytes:
    """The example row's image as a file."""
    return base64.b64decode(row(interface)[str(interface.image_column)])
