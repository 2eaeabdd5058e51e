"""Example requests for the OpenAPI document, which the model answers. Runs in the replica.

Their values are typical (means, first categories), never rows of the data set.
"""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np

from raydc.features import Categorical, Image, Numeric
from raydc.features.images import encode_png
from raydc.serve.protocol.interface import Interface


def example_row(interface: Interface) -> dict[str, Any]:
    """Makes a row of typical values: means, first categories, a grey image."""
    return {name: _example_value(column) for name, column in interface.features.columns.items()}


def _example_value(column: Numeric | Categorical | Image) -> Any:
    if isinstance(column, Image):
        return encode_png(
            np.full((column.height, column.width, column.channels), 128, dtype=np.uint8)
        )
    if isinstance(column, Categorical):
        return column.categories[0] if column.categories else "?"
    # Four significant digits, and never fewer than the whole part.
    digits = 3 - math.floor(math.log10(abs(column.mean))) if column.mean else 0
    return round(column.mean, max(digits, 0))


def example_csv(interface: Interface) -> str:
    """Makes the example row as a CSV file with a header."""
    values = example_row(interface)
    return f"{','.join(values)}\n{','.join(map(str, values.values()))}\n"


def example_infer_request(interface: Interface) -> dict[str, Any]:
    """Makes the example row as a v2 request."""
    columns = interface.features.columns
    inputs = [
        {
            "name": name,
            "shape": [1],
            "datatype": "FP64" if isinstance(columns[name], Numeric) else "BYTES",
            "data": [value],
        }
        for name, value in example_row(interface).items()
    ]
    return {"id": "1", "inputs": inputs}


def example_image(interface: Interface) -> bytes:
    """Makes the example row's image as a PNG file."""
    return base64.b64decode(example_row(interface)[str(interface.image_column)])
